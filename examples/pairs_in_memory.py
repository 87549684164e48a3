"""Fine-tune on pairs that are a list of dicts, with roles by name.

Run: python examples/pairs_in_memory.py
"""

import embedkit

rows = [{"question": f"How do I return order {i}?", "reply": f"Open order {i} and press Return"} for i in range(64)]
columns = {"question": "anchor", "reply": "positive"}
result = embedkit.train("quickstart", data=rows, columns=columns, smoke=True, output="runs/pairs")
print(result.steps, "steps, loss", round(result.loss, 3))
