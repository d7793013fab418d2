"""Reading with a model: decoding, windows over long documents, and jobs over many of them."""
