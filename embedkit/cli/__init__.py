"""The command line: one file a command, gathered in `embedkit.cli.app`; heavy libraries are imported in commands."""
