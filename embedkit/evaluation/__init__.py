"""evaluation of embedkit."""
