"""How an encoder runs: texts packed without padding, attention over groups, kernels."""
