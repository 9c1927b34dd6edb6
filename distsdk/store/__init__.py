"""Content on disk: an OCI image layout that processes share."""
