"""Vectors whose first 16 numbers are vectors of their own.

Run: python examples/matryoshka.py
"""

import embedkit

objective = {"name": "matryoshka", "objective": "infonce", "dims": [64, 32, 16]}
result = embedkit.train("quickstart", smoke=True, objective=objective, output="runs/matryoshka")
model = embedkit.load(result.output)
for size in (64, 16):
    print(size, model.encode(["the dog sleeps"], truncate_dim=size).shape)
