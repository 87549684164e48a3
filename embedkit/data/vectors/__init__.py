"""Vectors as data: columns of arrays that stay on the disk, blocks of them in a batch, and their checks."""
