"""How good a language model is, by others' tools and by files of questions that lie on this machine."""
