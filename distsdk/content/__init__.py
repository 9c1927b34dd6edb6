"""Blobs, their readers, and the protocols of the remotes that supply them."""
