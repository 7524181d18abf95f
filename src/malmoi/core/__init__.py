"""The nouns, tensors, settings and errors that every layer shares. Read this first."""
