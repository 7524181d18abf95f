"""Methods side by side: runs, verdicts, and a small model distilled from a large one."""
