"""Spelling: whether a model that learns to spell the tokens of its vocabulary can then count and place letters."""
