"""HTTP and nothing above it: sessions, tokens, hosts, replay."""
