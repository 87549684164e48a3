"""What watches a run: the log, guards, the search for values that are not finite."""
