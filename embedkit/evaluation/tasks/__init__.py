"""The kinds of tasks, one file each; `embedkit.evaluation.core.task.TASKS` imports them when it is first read."""
