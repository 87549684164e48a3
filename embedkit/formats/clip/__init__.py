"""One folder that open_clip, transformers and sentence-transformers all read."""
