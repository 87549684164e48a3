"""Images of rows: finding, checking and decoding them."""
