"""Kept classifiers as sequence classifiers of transformers."""
