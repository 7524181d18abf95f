"""Side by side: pictures and the report."""
