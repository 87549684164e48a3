"""Unsupervised SimCSE: sentences alone, two dropout masks.

Run: python examples/simcse.py
"""

import embedkit

result = embedkit.train("simcse-unsup", smoke=True, output="runs/simcse")  # a tiny encoder; the recipe has BERT
model = embedkit.load(result.output)
print(model.encode(["the dog sleeps"]).shape)
