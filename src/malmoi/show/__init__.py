"""The one house of presentation: terminal, charts, pages and pictures."""
