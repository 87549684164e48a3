"""Train a small encoder from random weights, score it, and compare three sentences.

Run: python examples/first_run.py
"""

import embedkit

result = embedkit.train("quickstart", smoke=True, output="runs/first")  # without smoke: a minute
model = embedkit.load(result.output)
print(embedkit.evaluate(model, suite="builtin-sts").scores)
texts = ["the dog sleeps", "the cat sleeps", "a train leaves"]
vectors = model.encode(texts)
print(model.similarity(vectors, vectors))
