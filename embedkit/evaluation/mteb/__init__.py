"""mteb's tasks and protocols, from the hub and on local data."""
