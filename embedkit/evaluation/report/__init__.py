"""Reports of scores: tables, pages, comparisons, cards of models."""
