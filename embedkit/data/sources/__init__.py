"""From a path to rows: one reader a file format, folders of images, shards, built-in sentences."""
