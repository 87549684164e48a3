"""Rows chosen by criteria: duplicates, lengths, scores, captions, diversity."""
