"""The hash that gives n-grams their rows; a trained table depends on it, so it may never change."""

from __future__ import annotations

PRIME = 2**31 - 1
FACTOR = 1_103_515_245
"""A product of two numbers below the prime fits 64 bits, so the hash is the same everywhere."""
