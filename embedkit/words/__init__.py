"""Words of recipes and command lines: keys, names of other trainers, overrides, and rules in our words."""
