"""How good predictions are: pure functions from predictions and targets to numbers with their uncertainty."""

from malmoi.metrics.overlap import bleu, chrf, rouge, squad_scores

__all__ = ["bleu", "chrf", "rouge", "squad_scores"]
