"""DiffCSE: SimCSE, and a discriminator that finds replaced words by the sentence vector.

Run: python examples/diffcse.py
"""

import embedkit

result = embedkit.train("diffcse", smoke=True, output="runs/diffcse")
print(result.steps, "steps, loss", round(result.loss, 3))
