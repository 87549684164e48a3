"""SimCLR: an image tower from images alone.

Run: python examples/images_alone.py
"""

import embedkit

result = embedkit.train("simclr", smoke=True, output="runs/simclr")
print(result.steps, "steps, loss", round(result.loss, 3))
