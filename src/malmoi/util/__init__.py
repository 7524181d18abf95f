"""Helpers that import nothing of ours: atomic files, seeds, devices, heap settings, progress, errors."""
