"""int8 and binary vectors, and the bytes that they take.

Run: python examples/quantised_vectors.py
"""

import embedkit

model = embedkit.load(embedkit.train("quickstart", smoke=True, output="runs/quantised").output)
vectors = model.encode([f"parcel {i} is on its way to house {i * 7}" for i in range(50)])
codes = embedkit.quantize(vectors, "int8", ranges=embedkit.VectorRanges.learn([vectors]))
bits = embedkit.quantize(vectors, "ubinary")
print(vectors.nbytes, codes.nbytes, bits.nbytes, "bytes")
