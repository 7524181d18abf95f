"""Helpers that import nothing of ours but errors: atomic files, locks, seeds, hardware, streams, units."""
