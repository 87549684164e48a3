"""data of embedkit."""
