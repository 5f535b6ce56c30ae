"""Programs that measure; their results are JSON in `results/`."""
