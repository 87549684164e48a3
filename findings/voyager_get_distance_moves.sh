#!/usr/bin/env bash
# voyager 2.2.3, numpy 2.4.6
#
# Behaviour: in an index with Space.InnerProduct, get_distance(a, b) is not the distance that query() gives for the
# same two vectors, and its value changes when OTHER vectors are added to the index. While all vectors of the index
# have length 1 both say 1 - a.b. After one vector of length 10 has been added, query() still says 0 for a and itself,
# get_distance says -81, and the order of candidates changes: for a = (1, 0) the orthogonal (0, 1) is now "nearer" than
# (10, 0), which the search rightly puts first.
#
# Why a good guess misses: the documentation of get_distance says "Get the distance between two provided vectors" and
# names no dependence on the contents. The index adds a hidden coordinate sqrt(longest^2 - length^2) to each vector, so
# that inner products become a problem of nearest neighbours; a search gives its query a 0 there, get_distance gives
# both vectors the full coordinate, and the two coordinates' product goes into the result. With the cosine and the
# Euclidean space the two functions agree.
#
# Output seen on 2026-11-29:
#   two vectors of length 1 in the index
#     a and a itself       1 - a.b =    0.0   query    0.0   get_distance    0.0
#     a and b, orthogonal  1 - a.b =    1.0   query    1.0   get_distance    1.0
#   a vector of length 10 added
#     a and a itself       1 - a.b =    0.0   query    0.0   get_distance  -81.0
#     a and b, orthogonal  1 - a.b =    1.0   query    1.0   get_distance  -80.0
#     a and 10 a           1 - a.b =   -9.0   query   -9.0   get_distance   -9.0
#   cosine and Euclidean space: query and get_distance agree
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check voyager==2.2.3 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import numpy as np
import voyager

a, b, long = (np.array(row, dtype=np.float32) for row in ([1, 0], [0, 1], [10, 0]))
index = voyager.Index(voyager.Space.InnerProduct, num_dimensions=2)
index.add_items(np.stack([a, b]))


def show(title):
    ids, distances = index.query(a, k=len(index))
    by_query = dict(zip(ids.tolist(), distances.tolist()))
    names = {0: "a itself", 1: "b, orthogonal", 2: "10 a"}
    print(title)
    for key, vector in ((0, a), (1, b), (2, long)):
        if key in by_query:
            print(f"  a and {names[key]:14s} 1 - a.b = {1 - a @ vector:6.1f}   query {by_query[key]:6.1f}"
                  f"   get_distance {index.get_distance(a, vector):6.1f}")


show("two vectors of length 1 in the index")
assert abs(index.get_distance(a, a) - 0) < 1e-5 and abs(index.get_distance(a, b) - 1) < 1e-5
index.add_item(long)
show("a vector of length 10 added")
ids, distances = index.query(a, k=3)
assert ids.tolist() == [2, 0, 1] and np.allclose(distances, [-9, 0, 1])
assert abs(index.get_distance(a, a) + 81) < 1e-3
assert abs(index.get_distance(a, b) + 80) < 1e-3
assert abs(index.get_distance(a, long) + 9) < 1e-3

for space in (voyager.Space.Cosine, voyager.Space.Euclidean):
    other = voyager.Index(space, num_dimensions=2)
    other.add_items(np.stack([a, b, long]))
    ids, distances = other.query(a, k=3)
    by_query = dict(zip(ids.tolist(), distances.tolist()))
    assert all(abs(by_query[key] - other.get_distance(a, vector)) < 1e-5 for key, vector in enumerate((a, b, long)))
print("cosine and Euclidean space: query and get_distance agree")
PY
"$work/venv/bin/python" "$work/check.py"
