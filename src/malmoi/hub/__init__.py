"""Model folders: what is saved, and the outside architectures that our decoders map to."""
