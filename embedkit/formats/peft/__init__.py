"""Adapters of peft, read with their base model."""
