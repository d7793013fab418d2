"""LoRA training: examples, the loop, checkpoints, processes, and sweeps over its parameters."""
