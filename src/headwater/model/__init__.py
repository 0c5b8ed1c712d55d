"""Models: their shape, their weights, and how they are kept and exchanged."""
