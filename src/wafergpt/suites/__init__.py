"""How good a run is, and where it breaks: a file for each suite of an evaluation."""
