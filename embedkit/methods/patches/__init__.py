"""Terms of patches: what they share, and their losses over vectors of this process's own images."""
