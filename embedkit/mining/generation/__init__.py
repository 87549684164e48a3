"""Texts that a function, a command or a batch of answers writes for training."""
