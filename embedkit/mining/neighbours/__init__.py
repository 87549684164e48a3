"""Rows from the neighbours of texts: positives and bands of negatives, paraphrases, pairs of translations."""
