"""training of embedkit."""
