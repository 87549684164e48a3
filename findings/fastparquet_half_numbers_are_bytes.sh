#!/usr/bin/env bash
# fastparquet 2026.9.0, pyarrow 26.0.1, duckdb 2.0.1, numpy 2.4.6
#
# Behaviour: a column of float16, alone or in lists as vectors are kept, that pyarrow wrote to parquet comes out of
# fastparquet as byte strings, without an error or a warning: b"U5" for 0.333. Bytes of zero at the end are cut off, so
# that 0.0 is b"", and the two bytes of each number cannot simply be joined and read. duckdb reads the numbers, as
# pyarrow does.
#
# Why a good guess misses: a reader either knows a type or refuses it, and fastparquet writes columns of numpy's float16
# without a complaint. In parquet such a number is two bytes of fixed length with a note of what they mean, and a reader
# that passes the note over finds valid bytes. The float32 columns of the same file are right.
#
# Output seen on 2026-12-01:
#   float16s  fastparquet: [[np.bytes_(b''), np.bytes_(b'U5'), np.bytes_(b'\x00<')], [np.bytes_(b'\x00@'), np.bytes_(b'\x00\xbc'), np.bytes_(b'\x008')]]   duckdb: [[0.0, 0.333251953125, 1.0], [2.0, -1.0, 0.5]]
#   float16   fastparquet: [b'U5', b'\x00\xbc']   duckdb: [0.333251953125, -1.0]
#   float32s  fastparquet: [[np.float32(0.0), np.float32(0.33333334), np.float32(1.0)], [np.float32(2.0), np.float32(-1.0), np.float32(0.5)]]   duckdb: [[0.0, 0.3333333432674408, 1.0], [2.0, -1.0, 0.5]]
#   float32   fastparquet: [0.3333333432674408, -1.0]   duckdb: [0.3333333432674408, -1.0]
#   written by fastparquet itself: float, read back as float32
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check fastparquet==2026.9.0 pyarrow==26.0.1 duckdb==2.0.1 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import sys

import duckdb
import fastparquet
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

vectors = np.array([[0, 1 / 3, 1], [2, -1, 0.5]])
file = f"{sys.argv[1]}/vectors.parquet"
columns = {}
for kind in (np.float16, np.float32):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(kind).ravel()), 3)
    columns |= {f"{kind.__name__}s": lists, kind.__name__: pa.array(vectors[:, 1].astype(kind))}
parquet.write_table(pa.table(columns), file)
read = fastparquet.ParquetFile(file).to_pandas()
for name in columns:
    numbers = duckdb.sql(f"select {name} from '{file}'").fetchall()
    cells = [[*cell] if isinstance(cell, (list, np.ndarray)) else cell for cell in read[name].tolist()]
    print(f"{name:9s} fastparquet: {cells}   duckdb: {[cell for (cell,) in numbers]}")
    wanted = vectors if name.endswith("s") else vectors[:, 1]
    assert np.allclose(np.array([cell for (cell,) in numbers], dtype=float), wanted, atol=1e-3)
    if name.startswith("float32"):
        assert np.allclose(np.array(cells, dtype=float), wanted, atol=1e-6)
assert bytes(read["float16s"][0][0]) == b"" and bytes(read["float16s"][0][1]) == b"U5" and bytes(read["float16"][0]) == b"U5"
own = f"{sys.argv[1]}/own.parquet"
fastparquet.write(own, pd.DataFrame({"x": np.array([0, 1 / 3, 1], np.float16)}))
back = fastparquet.ParquetFile(own).to_pandas().x
print(f"written by fastparquet itself: {parquet.read_schema(own).field('x').type}, read back as {back.dtype}")
PY
"$work/venv/bin/python" -W ignore "$work/check.py" "$work"
