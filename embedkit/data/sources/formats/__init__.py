"""Formats of data files, one module each, and what they share; `embedkit.data.sources.registry` imports them when it is
first read."""
