"""Fine-tune with LoRA; the saved folder has the adapters merged.

Run: python examples/lora.py
"""

import embedkit

result = embedkit.train("quickstart", smoke=True, model__lora={"rank": 4}, train__lr=1e-3, output="runs/lora")
print(embedkit.load(result.output).encode(["the dog sleeps"]).shape)
