"""Training: losses, optimizers, schedules, checkpoints, and the loop that ties them together."""
