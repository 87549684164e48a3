"""Scores during a run: its suite, and rows that are held out of training."""
