"""What images are made of, and how they differ: values that hold tables."""
