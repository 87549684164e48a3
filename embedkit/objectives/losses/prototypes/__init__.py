"""Learned vectors that embeddings are compared with: prototypes, centroids, proxies of classes; self-distillation."""
