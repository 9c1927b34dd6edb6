"""From blobs to files: what is inside a layer."""
