"""From texts and images to what an encoder reads: ragged token ids, pixels."""
