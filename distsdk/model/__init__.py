"""Values: names, digests, media types, platforms and documents. No I/O, no clock, no environment."""
