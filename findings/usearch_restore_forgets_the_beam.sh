#!/usr/bin/env bash
# usearch 2.26.6, numpy 2.4.6
#
# Behaviour: Index.restore(path) gives back an index with expansion_search=64 and expansion_add=128, whatever the saved
# one had, without a word. The one here, built with expansion_search=1000 on 8,000 random vectors, finds all ten
# nearest of each query before and 84 % of them after (with view=True as well). Metric, type and connectivity come
# back. load() into an index that was made with 1000 keeps 1000.
#
# Why a good guess misses: restore() is the way that needs no settings, as it reads them from the file, and those that
# can be seen at once (dimensions, metric, type, connectivity) are right. faiss keeps efSearch and nprobe in its files.
# Nothing fails: there are always ten results, and their distances are exact.
#
# Output seen on 2026-11-30:
#   as built                                     expansion_search 1000   expansion_add  200   connectivity 12   recall@10 1.000
#   Index.restore(path)                          expansion_search   64   expansion_add  128   connectivity 12   recall@10 0.842
#   Index.restore(path, view=True)               expansion_search   64   expansion_add  128   connectivity 12   recall@10 0.842
#   restored, expansion_search = 1000 set again  expansion_search 1000   expansion_add  128   connectivity 12   recall@10 1.000
#   load() into an index made with 1000          expansion_search 1000   expansion_add  128   connectivity 12   recall@10 1.000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check usearch==2.26.6 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import sys

import numpy as np
from usearch.index import Index

path = sys.argv[1] + "/index.usearch"
generator = np.random.default_rng(0)
documents = generator.normal(size=(8000, 64)).astype(np.float32)
queries = generator.normal(size=(200, 64)).astype(np.float32)
settings = {"ndim": 64, "metric": "l2sq", "dtype": "f32"}
best = np.argsort((documents**2).sum(1) - 2 * queries @ documents.T, axis=1)[:, :10].tolist()


def recall(index):
    found = index.search(queries, 10, threads=1).keys.tolist()
    return float(np.mean([len(set(row) & set(other)) / 10 for row, other in zip(best, found)]))


def show(title, index):
    print(f"{title:44s} expansion_search {index.expansion_search:4d}   expansion_add {index.expansion_add:4d}"
          f"   connectivity {index.connectivity}   recall@10 {recall(index):.3f}")
    return recall(index)


index = Index(**settings, connectivity=12, expansion_add=200, expansion_search=1000)
index.add(np.arange(len(documents)), documents, threads=1)
before = show("as built", index)
index.save(path)
restored = Index.restore(path)
after = show("Index.restore(path)", restored)
assert (restored.metric, restored.dtype, restored.connectivity) == (index.metric, index.dtype, 12)
assert (restored.expansion_search, restored.expansion_add) == (64, 128)
assert before > 0.98 and after < 0.92
assert abs(show("Index.restore(path, view=True)", Index.restore(path, view=True)) - after) < 1e-9
restored.expansion_search = 1000
assert abs(show("restored, expansion_search = 1000 set again", restored) - before) < 1e-9
other = Index(**settings, expansion_search=1000)
other.load(path)
assert abs(show("load() into an index made with 1000", other) - before) < 1e-9
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/check.py" "$work"
