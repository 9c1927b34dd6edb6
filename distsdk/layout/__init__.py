"""OCI image layouts in a directory or an archive, and docker's archives: read and written here alone."""
