"""Where a base comes from: the Hub, the Python package index, or a GGUF file."""
