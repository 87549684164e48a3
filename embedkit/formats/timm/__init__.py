"""Folders of timm: an image tower alone."""
