"""Scores of pairs, by an encoder, a cross-encoder or a function."""
