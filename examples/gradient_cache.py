"""A batch computed in chunks has the gradient of the whole: the losses are equal.

Run: python examples/gradient_cache.py
"""

import embedkit

whole = embedkit.train("quickstart", smoke=True, output="runs/whole")
chunks = embedkit.train("quickstart", smoke=True, train__chunk_size=8, output="runs/chunks")
print(whole.loss, chunks.loss)
assert abs(whole.loss - chunks.loss) < 1e-4
