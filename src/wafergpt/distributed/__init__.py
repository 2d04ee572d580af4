"""How several processes share a training step."""
