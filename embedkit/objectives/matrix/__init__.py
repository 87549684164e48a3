"""The similarity matrix of a batch: its two sides, statistics over it, tiles of it."""
