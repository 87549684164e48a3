"""Rows of any file with all of their columns, their vectors, and what was computed for them."""
