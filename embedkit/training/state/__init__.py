"""What a run keeps on disk: checkpoints, state, the account of samples."""
