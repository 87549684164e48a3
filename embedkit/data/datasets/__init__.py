"""Rows in training order: in memory, streamed or sharded; samplers, mixtures, shuffling."""
