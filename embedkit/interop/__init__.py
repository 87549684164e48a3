"""interop of embedkit."""
