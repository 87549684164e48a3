"""Layers behind the pooler of a text encoder."""
