"""A small CLIP from random weights on pictures that embedkit draws.

Run: python examples/clip_shapes.py
"""

from PIL import Image

import embedkit

result = embedkit.train("clip-small", smoke=True, output="runs/clip")  # builtin pictures of shapes
model = embedkit.load(result.output)
red = Image.new("RGB", (64, 64), "red")
print(model.similarity(model.encode([red]), model.encode(["a red square", "a blue circle"])))
