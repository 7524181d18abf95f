"""Methods: how a task is learned from examples and done, all behind one contract."""
