"""Build an index and search it.

Run: python examples/search.py
"""

import embedkit

model = embedkit.load(embedkit.train("quickstart", smoke=True, output="runs/search").output)
rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(["the dog sleeps", "a train leaves", "rain falls"])]
embedkit.build_index(rows, "animals", model)
for hit in embedkit.Index("animals", model=model).search("a dog", k=2):
    print(hit.id, round(hit.score, 3), hit.text)
