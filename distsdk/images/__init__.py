"""Images and artifacts as a person thinks of them."""
