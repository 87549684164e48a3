"""The same with the sigmoid loss of SigLIP.

Run: python examples/siglip_shapes.py
"""

import embedkit

result = embedkit.train("siglip", smoke=True, output="runs/siglip")
print(result.steps, "steps, loss", round(result.loss, 3))
