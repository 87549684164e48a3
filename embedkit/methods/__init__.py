"""methods of embedkit."""
