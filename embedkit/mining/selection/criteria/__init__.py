"""The criteria of `embedkit select`, a function of settings each; registered by name."""
