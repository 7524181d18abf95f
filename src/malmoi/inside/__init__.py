"""How language models work, as data to draw: how text is cut, what comes next, what each token costs."""
