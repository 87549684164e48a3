"""Optimizers, precision, layer-wise learning rates, the pull towards the starting weights."""
