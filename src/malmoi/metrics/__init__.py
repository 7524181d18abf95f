"""How good predictions are: pure functions from predictions and targets to numbers with their uncertainty."""
