"""Objectives made of objectives: wrappers, sums, gradient surgery."""
