"""Checkpoints: what is declared (manifest), and how it becomes a model's tensors (load)."""
