"""Pull, push and copy: walks over a graph of descriptors."""
