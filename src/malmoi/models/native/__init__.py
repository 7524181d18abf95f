"""Our own kernels for answering on a processor, compiled on the user's machine where it has a compiler."""
