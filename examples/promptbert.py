"""PromptBERT: the vector is that of a mask in a template, which is saved with the model.

Run: python examples/promptbert.py
"""

import embedkit

result = embedkit.train("promptbert-unsup", smoke=True, output="runs/promptbert")
model = embedkit.load(result.output)
print(model.prompts, model.default_prompt)
