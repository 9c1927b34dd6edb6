"""Remotes: whatever can fetch an object by its name."""
