"""Values of the OCI specifications: parsed once, frozen, without I/O."""
