"""Cerebras systems, through the vendor's SDK, which lives in an environment of its own."""
