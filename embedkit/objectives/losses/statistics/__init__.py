"""Statistics of a whole batch: correlations, covariances, singular values, characteristic functions."""
