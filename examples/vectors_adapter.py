"""A small map on stored vectors of a frozen model.

Run: python examples/vectors_adapter.py
"""

import numpy as np

import embedkit

draw = np.random.default_rng(0)
near = draw.normal(size=(64, 16)).astype("float32")
np.savez("pairs.npz", anchor=near, positive=near + 0.1 * draw.normal(size=near.shape).astype("float32"))
result = embedkit.train("feature-pairs", data="pairs.npz", smoke=True, output="runs/vectors")
print(embedkit.load(result.output).encode(near[:2]).shape)
