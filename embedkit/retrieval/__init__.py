"""Search: exact nearest neighbours of queries among vectors, in blocks."""
