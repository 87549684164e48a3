"""A page in the browser for searching an index: `embedkit search INDEX --serve`."""
