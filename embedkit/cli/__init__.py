"""cli of embedkit."""
