"""Changes inside the encoder: token edits, counter-based random numbers, template bias."""
