"""TSDAE: a decoder restores damaged sentences from their vectors.

Run: python examples/tsdae.py
"""

import embedkit

result = embedkit.train("tsdae", smoke=True, output="runs/tsdae")
print(result.steps, "steps, loss", round(result.loss, 3))
