"""Evaluation data read from files: tables, BEIR folders, images."""
