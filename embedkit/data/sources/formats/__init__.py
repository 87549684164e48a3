"""Formats of data files, one module each; `embedkit.data.sources.registry` imports them when it is first read."""
