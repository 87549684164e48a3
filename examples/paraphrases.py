"""Pairs of one list of texts that are near to each other.

Run: python examples/paraphrases.py
"""

import embedkit

model = embedkit.load(embedkit.train("quickstart", smoke=True, output="runs/paraphrases").output)
texts = ["the dog sleeps", "the dog is asleep", "a train leaves", "the train leaves", "rain falls"]
for row in embedkit.mine_paraphrases(texts, model, top_k=2).rows[:3]:
    print(row)
