"""Catalog classes: every read and write of the project."""
