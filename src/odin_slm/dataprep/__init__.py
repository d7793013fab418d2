"""From records to one dataset that can be trusted: splits, leakage, cleaning, quality, statistics."""
