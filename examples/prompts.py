"""Prompts in front of queries and documents, trained with and saved with the model.

Run: python examples/prompts.py
"""

import embedkit

prompts = {"anchor": "query: ", "positive": "passage: "}
result = embedkit.train("quickstart", smoke=True, method__prompts=prompts, output="runs/prompts")
model = embedkit.load(result.output)
print(model.prompts)
print(model.similarity(model.encode_query(["the dog sleeps"]), model.encode_document(["a dog is asleep"])))
