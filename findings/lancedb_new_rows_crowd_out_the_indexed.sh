#!/usr/bin/env bash
# lancedb 0.40.0, numpy 2.4.6
#
# Behaviour: rows added to a table after its IVF_PQ index was built crowd the indexed rows out of the results. 1,000
# rows after 5,000: they are 15 % of the true ten nearest and about 40 % of the ten that a search gives. All of the true
# nearest among the new rows are found, and about 45 % of those among the old; optimize(), which puts them into the index,
# ends it (15 to 17 %). refine_factor(10) gives the true answer before as well. The distances say nothing: while there are
# rows outside the index all of them are exact, after optimize() they are those of the codes, off by up to 50.
#
# Why a good guess misses: the documentation says that rows outside the index are searched exhaustively and both
# results combined, so that new rows cost time and nothing is missed. But the index contributes only its own ten
# candidates by code, more than half of which are not the nearest; each is scored exactly, falls behind, and a new row
# takes its place. A table that is added to every day and looked at for what is near prefers the latest day for no
# reason in the vectors.
#
# Output seen on 2026-11-30:
#   1,000 rows added after the index   share of new rows 0.41 (true 0.15)   of the true ten found: old rows 0.44, new rows 1.00   largest error of a distance 1e-05
#   the same, refine_factor(10)        share of new rows 0.15 (true 0.15)   of the true ten found: old rows 1.00, new rows 1.00   largest error of a distance 1e-05
#   after optimize()                   share of new rows 0.15 (true 0.15)   of the true ten found: old rows 0.37, new rows 0.32   largest error of a distance 5e+01
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check lancedb==0.40.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import sys

import lancedb
import numpy as np
import pyarrow as pa

generator = np.random.default_rng(0)
centres = generator.normal(size=(50, 64))
vectors = (centres[generator.integers(50, size=6000)] + 0.6 * generator.normal(size=(6000, 64))).astype(np.float32)
queries = (vectors[generator.integers(6000, size=100)] + 0.3 * generator.normal(size=(100, 64))).astype(np.float32)
distances = ((queries[:, None] - vectors) ** 2).sum(2)
nearest = distances.argsort(1)[:, :10]
new_among_nearest = float((nearest >= 5000).mean())


def rows(start, stop):
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors[start:stop].ravel()), 64)
    return pa.table({"id": pa.array(range(start, stop)), "vector": column})


def measure(title, table, refine=None):
    share, old, new, error = [], [], [], 0.0
    for query, best, exact in zip(queries, nearest, distances):
        search = table.search(query).distance_type("l2").nprobes(8).limit(10)
        found = (search.refine_factor(refine) if refine else search).to_list()
        ids = np.array([row["id"] for row in found])
        error = max(error, float(np.abs(np.array([row["_distance"] for row in found]) - exact[ids]).max()))
        share.append((ids >= 5000).mean())
        old += [number in ids for number in best if number < 5000]
        new += [number in ids for number in best if number >= 5000]
    figures = tuple(float(np.mean(part)) for part in (share, old, new))
    print(f"{title:34s} share of new rows {figures[0]:.2f} (true {new_among_nearest:.2f})   of the true ten found: old rows"
          f" {figures[1]:.2f}, new rows {figures[2]:.2f}   largest error of a distance {error:.0e}")
    return figures


table = lancedb.connect(sys.argv[1] + "/base").create_table("rows", rows(0, 5000))
table.create_index(metric="l2", index_type="IVF_PQ", num_partitions=8, num_sub_vectors=8)
table.add(rows(5000, 6000))
share, old, new = measure("1,000 rows added after the index", table)
assert new > 0.99 and old < 0.65 and share > 1.8 * new_among_nearest
share, old, new = measure("the same, refine_factor(10)", table, refine=10)
assert new > 0.99 and old > 0.97 and abs(share - new_among_nearest) < 0.02
table.optimize()
share, old, new = measure("after optimize()", table)
assert abs(new - old) < 0.15 and new < 0.8 and share < 1.4 * new_among_nearest
PY
"$work/venv/bin/python" -W ignore "$work/check.py" "$work"
