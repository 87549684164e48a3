"""models of embedkit."""
