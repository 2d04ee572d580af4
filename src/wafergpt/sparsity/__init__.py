"""Fewer weights: masks in training."""
