"""views of embedkit."""
