"""One training run: the loop, its step and what a step reads."""
