"""The typed recipe of a run: its schema, reading and checking, and the names that other trainers use."""
