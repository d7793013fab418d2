"""Runs in MLflow, the model registry, and who is champion."""
