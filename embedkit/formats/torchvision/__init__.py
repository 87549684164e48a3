"""State dicts for the models of torchvision: an image tower alone."""
