"""Losses that are no softmax over the similarity matrix: pairs, uniformity, ranking, prototypes."""
