"""Disk, processes, notebooks: what all rooms need of the machine."""
