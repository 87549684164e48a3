"""Half an hour of training, evaluation and checkpoints: memory, files and speed stay flat."""

from __future__ import annotations
