#!/usr/bin/env bash
# pyarrow 26.0.1
#
# Behaviour: infer_type([1, "y"]) is int64 and infer_type(["y", 1]) is string, without an error: of cells of two kinds
# the first one decides alone, also below lists ([[1], ["y"]]: list of int64) and in fields of dicts. array() of the
# same cells fails with every one of these types. A whole number beside fractions gives double, and bytes beside text
# binary, in any order, and array() takes them; a number beside a list is refused by infer_type at once.
#
# Why a good guess misses: infer_type is described as the type that can hold the sequence, it looks at all cells (a
# fraction at the end makes [1, 2.5] a double), and it does raise for some mixtures. So a schema made of it seems to be
# checked; that a column is mixed comes out when its rows are written, in the middle of a parquet file.
#
# Output seen on 2026-11-29:
#   [1, 2.5]              infer_type: double             array: double
#   [1, 'y']              infer_type: int64              array: ArrowInvalid
#   ['y', 1]              infer_type: string             array: ArrowTypeError
#   [True, 1]             infer_type: bool               array: ArrowInvalid
#   [[1], ['y']]          infer_type: list<item: int64>  array: ArrowInvalid
#   [1, [2]]              infer_type: ArrowInvalid       array: ArrowInvalid
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
cat >"$work/check.py" <<'PY'
import pyarrow as pa


def outcome(make):
    try:
        return str(make())
    except Exception as error:
        return type(error).__name__


expected = [
    ([1, 2.5], "double", "double"), ([1, "y"], "int64", "ArrowInvalid"), (["y", 1], "string", "ArrowTypeError"),
    ([True, 1], "bool", "ArrowInvalid"), ([[1], ["y"]], "list<item: int64>", "ArrowInvalid"),
    ([1, [2]], "ArrowInvalid", "ArrowInvalid"),
]
for cells, inferred, built in expected:
    first = outcome(lambda: pa.infer_type(cells))
    second = outcome(lambda: pa.array(cells).type)
    print(f"{cells!s:21} infer_type: {first:18} array: {second}")
    assert (first, second) == (inferred, built)
PY
"$work/venv/bin/python" "$work/check.py"
