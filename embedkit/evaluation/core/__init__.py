"""What every evaluation is made of: suites, tasks, embeddings and their cache, statistics."""
