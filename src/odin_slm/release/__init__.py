"""What is released: cards, gates, provenance, merged weights, and the checks of all of it."""
