"""Image towers, a file a library; each registers itself in `embedkit.models.modules.image_towers.image_towers`."""
