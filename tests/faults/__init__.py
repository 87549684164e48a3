"""A hostile world: kills, full disks, broken data, bad numbers, attacks, each with what must be left afterwards.

``python -m tests.faults`` prints a line a case and a total for each group; pytest runs the short cases
(``test_faults.py``). A group is a module of this package, `GROUPS` of `tests.faults.frame` names them.
"""
