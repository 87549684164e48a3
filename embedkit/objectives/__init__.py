"""objectives of embedkit."""
