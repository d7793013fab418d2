"""Review: which documents to correct, files of them for annotation tools, and how they come back."""
