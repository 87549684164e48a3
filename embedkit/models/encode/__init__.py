"""Vectors of texts, images and whole files."""
