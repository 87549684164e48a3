"""Model folders of sentence-transformers."""
