"""Model folders and architectures of open_clip."""
