#!/usr/bin/env bash
# safetensors 0.8.0 (0.6.2 and 0.7.0 do the same), numpy 2.4.6
#
# Behaviour: safetensors.numpy.save_file writes a numpy array in column order (a transposed matrix, the result of
# np.asfortranarray, a column-wise table from another library) without error or warning, and load_file gives an array
# of the same shape and dtype whose numbers stand in other places. Nothing but the numbers shows it.
#
# Why a good guess misses: safetensors.torch refuses the same matrix ("non contiguous tensor") and names the remedy, and
# numpy.save writes it rightly (it notes the order). The documentation asks for contiguous tensors, but such an array IS
# contiguous for numpy (flags.f_contiguous, flags.forc): it fills its memory without a gap. The memory is written as it
# lies, and the shape is read as that of a matrix in row order.
#
# Output seen on 2026-11-29:
#   row by row: [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]] contiguous for numpy: True
#   saved as it is:     [[1.0, 4.0, 2.0], [5.0, 3.0, 6.0]] (2, 3) float32
#   saved as a copy:    [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
#   numpy.save:         [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
#   mean cosine of 200 vectors with themselves after saving: 0.01
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

work = Path(sys.argv[1])
# two word vectors of three dimensions, as a projection gives them: the transposed of a (3, 2) matrix
projection = np.array([[1, 4], [2, 5], [3, 6]], dtype=np.float32)
vectors = projection.T
print("row by row:", vectors.tolist(), "contiguous for numpy:", bool(vectors.flags.forc))
assert vectors.flags.f_contiguous and not vectors.flags.c_contiguous

save_file({"vectors": vectors, "copy": np.ascontiguousarray(vectors)}, work / "m.safetensors")
read = load_file(work / "m.safetensors")
print("saved as it is:    ", read["vectors"].tolist(), read["vectors"].shape, read["vectors"].dtype)
print("saved as a copy:   ", read["copy"].tolist())
np.save(work / "m.npy", vectors)
print("numpy.save:        ", np.load(work / "m.npy").tolist())
assert read["vectors"].shape == vectors.shape and read["vectors"].dtype == vectors.dtype
assert not np.array_equal(read["vectors"], vectors)
assert read["vectors"].tolist() == [[1, 4, 2], [5, 3, 6]]
assert np.array_equal(read["copy"], vectors) and np.array_equal(np.load(work / "m.npy"), vectors)

# the damage in figures: nearest neighbours of 200 random vectors of 16 dimensions
generator = np.random.default_rng(0)
table = np.asfortranarray(generator.normal(size=(200, 16)).astype(np.float32))
save_file({"vectors": table}, work / "t.safetensors")
again = load_file(work / "t.safetensors")["vectors"]
cosines = (table * again).sum(1) / np.linalg.norm(table, axis=1) / np.linalg.norm(again, axis=1)
print(f"mean cosine of 200 vectors with themselves after saving: {cosines.mean():.2f}")
assert abs(cosines.mean()) < 0.2 and np.array_equal(np.sort(table, axis=None), np.sort(again, axis=None))
PY
"$work/venv/bin/python" "$work/check.py" "$work"
