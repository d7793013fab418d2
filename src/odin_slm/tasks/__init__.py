"""Tasks: what a model is taught, how its outputs are read, scored and shown."""
