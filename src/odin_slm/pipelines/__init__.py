"""Kedro pipelines: pure nodes, wired by name to the catalog."""
