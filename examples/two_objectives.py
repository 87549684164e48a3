"""A sum of two losses: InfoNCE, and uniformity of the space.

Run: python examples/two_objectives.py
"""

import embedkit

objective = {"name": "sum", "terms": [{"name": "infonce"}, {"name": "align-uniform", "weight": 0.1}]}
result = embedkit.train("quickstart", smoke=True, objective=objective, output="runs/sum")
print(result.steps, "steps, loss", round(result.loss, 3))
