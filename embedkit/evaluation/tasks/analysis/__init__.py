"""Tasks that look into a model: what its vectors hold, how they move, what they lose."""
