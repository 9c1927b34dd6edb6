"""Read the files inside layers, merge the layers into one tree, and unpack them."""
