"""Configuration: the loader, and the typed parameters of every pipeline."""
