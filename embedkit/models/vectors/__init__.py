"""Encoders of vectors that come from elsewhere."""
