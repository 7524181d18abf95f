"""Text to token ids and back, and messages to one sequence of them."""
