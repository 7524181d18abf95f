"""Networks that are fitted to one task: recurrent ones and Transformers, behind one `Neural` method."""

from malmoi.methods.neural.method import GRU, LSTM, RNN, TransformerMethod
from malmoi.methods.neural.pretrained import Pretrained

NEURAL = (RNN, GRU, LSTM, TransformerMethod)

__all__ = ["GRU", "LSTM", "NEURAL", "RNN", "Pretrained", "TransformerMethod"]
