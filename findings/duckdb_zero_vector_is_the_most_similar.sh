#!/usr/bin/env bash
# duckdb 2.0.1
#
# Behaviour: array_cosine_similarity (and list_cosine_similarity) with a vector of zeros is NaN, and DuckDB's NaN is
# larger than every number. Such a row is therefore the most similar of all: first in ORDER BY ... DESC LIMIT k, the
# answer of max_by, and let through by "> 0.9". By array_cosine_distance the same row stands last and "< 0.1" leaves it
# out, so that the two usual ways to write one search have different answers. avg() and max() of the similarities are
# NaN.
#
# Why a good guess misses: in numpy, pandas and C every comparison with NaN is false, so a threshold drops it; division
# by a length of zero gives NULL or 0 elsewhere (NULL in sqlite-vec, 0 in qdrant), and DuckDB sorts NULL last in both
# directions. Vectors of zeros are what static models give for a text without a known word.
#
# Output seen on 2026-11-30:
#   order by similarity desc limit 2                 zeros nan, same 1.00
#   the same of lists                                zeros nan, same 1.00
#   order by distance limit 2                        same 0.00, near 0.05
#   similarity > 0.9                                 same, near, zeros
#   distance < 0.1                                   same, near
#   max_by(name, similarity)                         zeros
#   min_by(name, distance)                           same
#   NULL in its place: order by desc                 0.7, 0.5, None
#   avg(similarity)                                  nan
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.1
cat >"$work/check.py" <<'PY'
import duckdb

base = duckdb.connect()
base.execute("create table rows (name text, v float[2], l float[])")
for name, vector in {"same": [2, 0], "near": [3, 1], "across": [0, 1], "zeros": [0, 0]}.items():
    base.execute("insert into rows values (?, ?, ?)", [name, vector, vector])


def ask(title, query):
    answer = base.execute(query.replace("Q", "[1, 0]::float[2]").replace("L", "[1, 0]::float[]")).fetchall()
    print(f"{title:48s}", ", ".join(" ".join(f"{x:.2f}" if isinstance(x, float) else str(x) for x in row) for row in answer))
    return [row[0] for row in answer]


order = ask("order by similarity desc limit 2", "select name, array_cosine_similarity(v, Q) s from rows order by s desc limit 2")
assert order == ["zeros", "same"]
order = ask("the same of lists", "select name, list_cosine_similarity(l, L) s from rows order by s desc limit 2")
assert order == ["zeros", "same"]
order = ask("order by distance limit 2", "select name, array_cosine_distance(v, Q) d from rows order by d limit 2")
assert order == ["same", "near"]
assert ask("similarity > 0.9", "select name from rows where array_cosine_similarity(v, Q) > 0.9") == ["same", "near", "zeros"]
assert ask("distance < 0.1", "select name from rows where array_cosine_distance(v, Q) < 0.1") == ["same", "near"]
assert ask("max_by(name, similarity)", "select max_by(name, array_cosine_similarity(v, Q)) from rows") == ["zeros"]
assert ask("min_by(name, distance)", "select min_by(name, array_cosine_distance(v, Q)) from rows") == ["same"]
assert ask("NULL in its place: order by desc", "select x from (values (null), (0.5), (0.7)) t(x) order by x desc")[2] is None
assert str(ask("avg(similarity)", "select avg(array_cosine_similarity(v, Q)) from rows")[0]) == "nan"
PY
"$work/venv/bin/python" "$work/check.py"
