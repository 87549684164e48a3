"""Own parts for embedkit."""
