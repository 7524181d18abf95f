"""The demo: the whole road on one page."""
