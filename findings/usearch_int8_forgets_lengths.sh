#!/usr/bin/env bash
# usearch 2.26.6, numpy 2.4.6
#
# Behaviour: an Index with dtype="i8" makes every vector as long as every other. Vectors of 0.1, 1 and 10 in one
# direction are stored as the same codes (127, 0), so that with metric="ip" all three score alike and with
# metric="l2sq" all three are at distance 0 of each other. A search by inner product becomes one by cosine: 37 % of the
# ten with the largest inner products are found among 2,000 documents of lengths 4 to 16, 94 % of the ten with the
# largest cosines. The distances are those of the codes, thousands where float32 has ones. "f16", "bf16" and even
# "e5m2", 8 bits too, keep the lengths.
#
# Why a good guess misses: 8-bit codes are expected to have a fixed scale and a clip (numbers above 1 become 127), or a
# scale that is learned; either keeps short vectors short. Here each vector is divided by its own length before it is
# rounded, which no metric undoes: only "cos" is unharmed, the metric of most examples, and vectors of length 1.
#
# Output seen on 2026-11-30:
#   ip exact [0.8999999761581421, 0.0, -9.0, 0.4000000059604645]
#   ip f32   [0.9, 0.0, -9.0, 0.4]
#   ip f16   [0.9, 0.0, -9.0, 0.4]
#   ip bf16  [0.9, 0.0, -9.0, 0.4]
#   ip e5m2  [0.91, 0.0, -9.0, 0.38]
#   ip i8    [-16128.0, -16128.0, -16128.0, -9651.0]
#   l2sq exact [0.8100000023841858, 0.0, 81.0, 0.800000011920929]
#   l2sq f32   [0.81, 0.0, 81.0, 0.8]
#   l2sq f16   [0.81, 0.0, 81.0, 0.8]
#   l2sq bf16  [0.81, 0.0, 81.0, 0.8]
#   l2sq e5m2  [0.82, 0.0, 81.0, 0.7]
#   l2sq i8    [0.0, 0.0, 0.0, 12802.0]
#   stored codes: [[127, 0], [127, 0], [127, 0], [76, 101]]
#   of the ten found with metric ip and f32: 1.00 are the ten of the largest inner product, 0.37 those of the largest cosine
#   of the ten found with metric ip and e5m2: 0.92 are the ten of the largest inner product, 0.36 those of the largest cosine
#   of the ten found with metric ip and i8: 0.37 are the ten of the largest inner product, 0.94 those of the largest cosine
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check usearch==2.26.6 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import numpy as np
from usearch.index import Index


def index(metric, dtype, vectors):
    built = Index(ndim=vectors.shape[1], metric=metric, dtype=dtype)
    built.add(np.arange(len(vectors)), vectors)
    return built


# documents 0 to 3: three lengths of one direction, and a short one beside it
documents = np.array([[0.1, 0], [1, 0], [10, 0], [0.6, 0.8]], dtype=np.float32)
query = np.array([1, 0], dtype=np.float32)
exact = {"ip": 1 - documents @ query, "l2sq": ((documents - query) ** 2).sum(1)}
for metric in ("ip", "l2sq"):
    print(metric, "exact".ljust(5), np.round(exact[metric], 2).tolist())
    for dtype in ("f32", "f16", "bf16", "e5m2", "i8"):
        found = index(metric, dtype, documents).search(query, 4, exact=True)
        by_key = dict(zip(found.keys.tolist(), found.distances.tolist()))
        distances = np.array([by_key[key] for key in range(4)])
        print(metric, dtype.ljust(5), np.round(distances, 2).tolist())
        if dtype == "i8":
            assert len(set(distances[:3])) == 1, "the three lengths are told apart"
            assert (distances[0] < distances[3]) and abs(distances[0]) in (0, 127**2 - 1)
        else:
            assert np.abs(distances - exact[metric]).max() < 0.11 * max(1, np.abs(exact[metric]).max())
stored = index("ip", "i8", documents)
raw = np.stack([stored.get(key, dtype="i8") for key in range(4)])
print("stored codes:", raw.tolist())
assert raw.tolist() == [[127, 0], [127, 0], [127, 0], [76, 101]]

# how much of a search by inner product is left
generator = np.random.default_rng(0)
documents = generator.normal(size=(2000, 64)).astype(np.float32) * generator.uniform(0.5, 2, size=(2000, 1)).astype(np.float32)
queries = generator.normal(size=(100, 64)).astype(np.float32)
for dtype in ("f32", "e5m2", "i8"):
    found = index("ip", dtype, documents).search(queries, 10, exact=True).keys
    cosines = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    shares = []
    for table in (documents, cosines):
        best = np.argsort(-(queries @ table.T), axis=1)[:, :10]
        shares.append(np.mean([len(set(row) & set(other)) / 10 for row, other in zip(best.tolist(), found.tolist())]))
    print(f"of the ten found with metric ip and {dtype}: {shares[0]:.2f} are the ten of the largest inner product,"
          f" {shares[1]:.2f} those of the largest cosine")
    assert (shares[1] > 0.9 > 0.6 > shares[0]) if dtype == "i8" else (shares[0] > 0.8 > 0.6 > shares[1])
PY
"$work/venv/bin/python" "$work/check.py"
