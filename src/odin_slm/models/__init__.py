"""Base models: found, checked, loaded, and judged before a training starts."""
