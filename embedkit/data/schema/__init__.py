"""What a row is: roles by name, cells parsed into values, and what looks like a mistake."""
