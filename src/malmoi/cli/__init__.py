"""The command line: one file for each group of verbs, and no logic."""

from malmoi.cli.commands import app, main

__all__ = ["app", "main"]
