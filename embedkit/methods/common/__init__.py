"""What methods are made of: auxiliary objectives, augmentation, masked-word parts, attention maps."""
