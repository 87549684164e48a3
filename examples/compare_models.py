"""Score two models on data of your own.

Run: python examples/compare_models.py
"""

import embedkit

rows = [{"question": f"where is parcel {i}", "answer": f"parcel {i} is on its way"} for i in range(20)]
for seed in (1, 2):
    result = embedkit.train("quickstart", smoke=True, seed=seed, output=f"runs/seed-{seed}")
    print(seed, embedkit.evaluate(embedkit.load(result.output), data=rows, suite="own-retrieval").scores)
