"""Losses other than a softmax over the similarity matrix: pairs, uniformity, ranking, prototypes."""
