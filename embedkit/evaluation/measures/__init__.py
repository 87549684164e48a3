"""Measures of vectors: ranking, exact search, probes, geometry."""
