"""Kinds of suites behind one registry: YAML files, mteb's tasks, a user's own data, plug-ins."""
