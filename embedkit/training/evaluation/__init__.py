"""Scores of a run while it goes on: its suite, and rows that are held out of training."""
