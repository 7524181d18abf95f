"""Models: how token ids become next-token logits. Uses only core and util."""
