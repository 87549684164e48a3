"""Find hard negatives with a model, and train on them.

Run: python examples/hard_negatives.py
"""

import embedkit

rows = [{"anchor": f"where is parcel {i}", "positive": f"parcel {i} is on its way"} for i in range(40)]
model = embedkit.load(embedkit.train("quickstart", smoke=True, output="runs/miner").output)
hard = embedkit.mine(rows, model, num_negatives=1)
print(hard.rows[0])
embedkit.train("quickstart", data=hard.rows, smoke=True, output="runs/hard")
