"""A synthetic corpus in the style of each of the public ones, and the sample that the repository carries."""
