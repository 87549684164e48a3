"""A classifier of texts that is kept with the model.

Run: python examples/classifier.py
"""

import embedkit

texts = {"weather": "rain falls on day", "travel": "the train leaves on day"}
rows = [{"text": f"{text} {i}", "label": label} for label, text in texts.items() for i in range(32)]
result = embedkit.train("classify", data=rows, smoke=True, output="runs/classify")
print(embedkit.load(result.output).classify(["rain falls", "a train leaves"]))
