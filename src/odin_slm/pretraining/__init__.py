"""Everything of the embedded base: its curriculum, its trainer, its tests."""
