#!/usr/bin/env bash
# sqlite-vec 0.1.9, apsw 3.54.1.0, numpy 2.4.6
#
# Behaviour: one row of zeros in a vec0 table with distance_metric=cosine makes a search miss the exact answer. If the
# row is the first of its chunk (rows 1, 1025, 2049 ... of the table), whole chunks of 1,024 rows drop out of the
# result: zeros in row 1 hide rows 2 to 1024, zeros in row 1025 hide the first two chunks, zeros in row 2049 stand
# first, before a distance of 0. In row 700, inside a chunk, zeros do no harm, and with the Euclidean distance they do
# none in any of the four places. There is no error, and k rows come back in each case.
#
# Why a good guess misses: vec_distance_cosine says NULL for a vector of zeros, so one expects such rows last, first or
# left out, the same wherever they stand. Their distance is NaN in the search; a chunk's list begins with its first row
# while nothing compares as smaller, and a list that begins with NaN loses or wins its merge with the other chunks'
# lists by their order. A vector of zeros is what static models give for an empty text or one without a known word, and
# an empty first line of a file makes it row 1.
#
# Output seen on 2026-11-30:
#   cosine zeros in row none  rows that find themselves, by chunk: [1.0, 1.0, 1.0]   nearest to row 60: 60 (0.00), 2612 (0.10), 1485 (0.12)
#   cosine zeros in row 700   rows that find themselves, by chunk: [1.0, 1.0, 1.0]   nearest to row 60: 60 (0.00), 2612 (0.10), 1485 (0.12)
#   cosine zeros in row 1     rows that find themselves, by chunk: [0.0, 1.0, 1.0]   nearest to row 60: 2612 (0.10), 1485 (0.12), 2996 (0.14)
#   cosine zeros in row 1025  rows that find themselves, by chunk: [0.0, 0.0, 1.0]   nearest to row 60: 2612 (0.10), 2996 (0.14), 2785 (0.17)
#   cosine zeros in row 2049  rows that find themselves, by chunk: [1.0, 1.0, 1.0]   nearest to row 60: 2049 (NULL), 60 (0.00), 2612 (0.10)
#   L2     zeros in row none  rows that find themselves, by chunk: [1.0, 1.0, 1.0]   nearest to row 60: 60 (0.00), 2996 (2.36), 2785 (2.54)
#   L2     zeros in row 700   rows that find themselves, by chunk: [1.0, 1.0, 1.0]   nearest to row 60: 60 (0.00), 2996 (2.36), 2785 (2.54)
#   L2     zeros in row 1     rows that find themselves, by chunk: [1.0, 1.0, 1.0]   nearest to row 60: 60 (0.00), 2996 (2.36), 2785 (2.54)
#   L2     zeros in row 1025  rows that find themselves, by chunk: [1.0, 1.0, 1.0]   nearest to row 60: 60 (0.00), 2996 (2.36), 2785 (2.54)
#   L2     zeros in row 2049  rows that find themselves, by chunk: [1.0, 1.0, 1.0]   nearest to row 60: 60 (0.00), 2996 (2.36), 2785 (2.54)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check sqlite-vec==0.1.9 apsw==3.54.1.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import apsw
import numpy as np
import sqlite_vec

generator = np.random.default_rng(0)
documents = generator.normal(size=(3000, 8)).astype(np.float32)
numbers = generator.choice(np.arange(2, 3001), size=300, replace=False)
numbers = numbers[~np.isin(numbers, (700, 1025, 2049))]  # rows that keep their vectors in all tables


def table(metric, empty):
    """3,000 rows in three chunks; row `empty` holds zeros."""
    database = apsw.Connection(":memory:")
    database.enable_load_extension(True)
    database.load_extension(sqlite_vec.loadable_path())
    database.execute(f"create virtual table rows using vec0(vector float[8] distance_metric={metric})")
    with database:
        for number, vector in enumerate(documents, start=1):
            held = np.zeros_like(vector) if number == empty else vector
            database.execute("insert into rows(rowid, vector) values (?, ?)", (number, held.tobytes()))
    return database


def search(database, number, k):
    """The k nearest rows to the vector of row `number`, and their distances."""
    vector = documents[number - 1].tobytes()
    return database.execute("select rowid, distance from rows where vector match ? and k = ?", (vector, k)).fetchall()


found = {}
for metric in ("cosine", "L2"):
    for empty in (None, 700, 1, 1025, 2049):
        database = table(metric, empty)
        chunks = {0: [], 1: [], 2: []}
        for number in numbers.tolist():
            rows = search(database, number, 3)
            assert len(rows) == 3
            chunks[(number - 1) // 1024].append(number in [row for row, _ in rows])
        found[metric, empty] = [round(float(np.mean(chunks[chunk])), 2) for chunk in range(3)]
        first = ", ".join(f"{row} ({'NULL' if d is None else format(d, '.2f')})" for row, d in search(database, 60, 3))
        print(f"{metric:6s} zeros in row {empty or 'none':<5} rows that find themselves, by chunk: {found[metric, empty]}"
              f"   nearest to row 60: {first}")
assert all(found["L2", empty] == [1, 1, 1] for empty in (None, 700, 1, 1025, 2049))
assert found["cosine", None] == found["cosine", 700] == [1, 1, 1]
assert found["cosine", 1] == [0, 1, 1]
assert found["cosine", 1025] == [0, 0, 1]
assert found["cosine", 2049] == [1, 1, 1] and search(table("cosine", 2049), 60, 1) == [(2049, None)]
PY
"$work/venv/bin/python" "$work/check.py"
