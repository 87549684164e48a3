"""Labels of rows: the clusters of their vectors."""
