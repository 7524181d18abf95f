"""The demo: the whole road, told on one page."""
