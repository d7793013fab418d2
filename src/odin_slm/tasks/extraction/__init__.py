"""Extraction of entities and relations as structured text."""
