"""Record and replay HTTP exchanges."""
