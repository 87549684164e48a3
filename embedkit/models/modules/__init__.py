"""The parts that models are made of: encoders, towers, poolers, heads, adapters."""
