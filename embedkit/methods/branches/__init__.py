"""Branches of a method: views of captions, and projectors that are trained beside the model."""
