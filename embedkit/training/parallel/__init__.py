"""Several processes: engines, collectives, signals, memory."""
