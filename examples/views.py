"""SimCSE with words repeated in one view and a stronger dropout.

Run: python examples/views.py
"""

import embedkit

augment = {"positive": [{"name": "word-repetition", "rate": 0.3}, {"name": "dropout", "rate": 0.2}]}
result = embedkit.train("simcse-unsup", smoke=True, method__augment=augment, output="runs/views")
print(result.steps, "steps, loss", round(result.loss, 3))
