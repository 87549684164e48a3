"""Call a run again with resume: it continues from its last checkpoint, here the end.

Run: python examples/resume.py
"""

import embedkit

first = embedkit.train("quickstart", smoke=True, output="runs/resumed")
again = embedkit.train("quickstart", smoke=True, output="runs/resumed", resume=True)
a, b = (embedkit.load(result.output).encode(["the dog sleeps"]) for result in (first, again))
assert (a == b).all()
print("the same model, bit for bit")
