"""A running mean of the weights, evaluated and saved in place of the last ones.

Run: python examples/ema.py
"""

import embedkit

result = embedkit.train("quickstart", smoke=True, train__ema=0.9, output="runs/ema")
print(result.steps, "steps; model in", result.output)
