#!/usr/bin/env bash
# pynndescent 0.7.0, numpy 2.4.6
#
# Behaviour: NNDescent(metric="dot") does not search by dot product. Documents and queries are normalised, and the
# distances are 1 - cosine to the last digits: the same neighbours and numbers as metric="cosine". Of the ten documents
# with the largest dot products of vectors of different lengths it finds three in ten. metric="inner_product", which is
# not in the list of the class's documentation, gives the dot products, as negative numbers, and finds them.
#
# Why a good guess misses: the list of metrics names "cosine" and "dot" beside each other, as everywhere else two
# different things (faiss, lancedb, qdrant, annoy and hnswlib's "ip" do not normalise), and for vectors of length 1
# both are the same, so that a test with normalised vectors shows nothing.
#
# Output seen on 2026-12-01:
#   cosine         of its ten: 0.32 of the largest dot products, 0.99 of the largest cosines; furthest from 1 - cosine   0.000, from -dot  64.214
#   dot            of its ten: 0.32 of the largest dot products, 0.99 of the largest cosines; furthest from 1 - cosine   0.000, from -dot  64.214
#   inner_product  of its ten: 1.00 of the largest dot products, 0.32 of the largest cosines; furthest from 1 - cosine  64.214, from -dot   0.000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pynndescent==0.7.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import numpy as np
from pynndescent import NNDescent

generator = np.random.default_rng(0)
documents = generator.normal(size=(1000, 16)) * generator.uniform(0.2, 4, size=(1000, 1))
documents = documents.astype(np.float32)
queries = generator.normal(size=(50, 16)).astype(np.float32)
dots = queries @ documents.T
cosines = dots / np.linalg.norm(queries, axis=1, keepdims=True) / np.linalg.norm(documents, axis=1)


def recall(found, table):
    best = np.argsort(-table, axis=1)[:, :10]
    return float(np.mean([len(set(row) & set(other)) / 10 for row, other in zip(best.tolist(), found.tolist())]))


shares, by_cosine, by_dot = {}, {}, {}
for metric in ("cosine", "dot", "inner_product"):
    index = NNDescent(documents, metric=metric, n_neighbors=40, random_state=0)
    index.prepare()
    found, distances = index.query(queries, k=10, epsilon=0.4)
    shares[metric] = recall(found, dots), recall(found, cosines)
    rows = np.arange(len(queries))[:, None]
    by_cosine[metric] = float(np.abs(distances - (1 - cosines[rows, found])).max())
    by_dot[metric] = float(np.abs(distances + dots[rows, found]).max())
    print(f"{metric:14s} of its ten: {shares[metric][0]:.2f} of the largest dot products, {shares[metric][1]:.2f} of the largest"
          f" cosines; furthest from 1 - cosine {by_cosine[metric]:7.3f}, from -dot {by_dot[metric]:7.3f}")
for metric in ("cosine", "dot"):
    assert shares[metric][1] > 0.95 and shares[metric][0] < 0.6 and by_cosine[metric] < 1e-5 and by_dot[metric] > 1
assert shares["inner_product"][0] > 0.9 and by_dot["inner_product"] < 1e-4
assert "inner_product" not in NNDescent.__doc__ and "* dot" in NNDescent.__doc__
PY
"$work/venv/bin/python" -W ignore "$work/check.py"
