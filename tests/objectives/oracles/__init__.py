"""Naive oracles: every published objective as loops over rows, in fp64, written from its formula.

Nothing here imports embedkit. Arguments are numpy arrays (rows are vectors, not normalised) and plain numbers; section
numbers are those of ``shared/reference/objectives-and-vision-language.md``. A function with a stop-gradient takes the
blocked quantity from a second copy of its inputs, named ``fixed``: finite differences over the first copy then give
the gradient that the paper means.
"""
