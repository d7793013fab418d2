"""odin-slm: small language models that extract entities and relations from medical text."""

__version__ = "0.1.0"
