"""The traditional methods: one small model for each task, without a neural network."""
