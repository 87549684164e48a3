"""embedkit's own model folder."""
