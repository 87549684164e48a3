#!/usr/bin/env bash
# torch 2.13.0 (CPU), numpy 2.4.6
#
# Behaviour: torch.nn.functional.normalize and cosine_similarity turn a row of zeros into NaN in float16. In float32,
# float64 and bfloat16 the same row stays 0 and its cosine is 0, as the documented eps promises. One such row (the mean
# of no known words, a padded row of a batch) makes a softmax over the similarity matrix, and so a whole contrastive
# loss, NaN.
#
# Why a good guess misses: eps is there to avoid the division by zero, and the type with the fewer digits, bfloat16,
# gets it right. But 1e-12 (normalize) and 1e-8 (cosine_similarity) are smaller than the smallest float16, 6e-8, and
# become 0 themselves. An eps of 1e-7 given by the caller helps. Ordinary short rows (length 2e-6) are right, so that a
# test with small numbers does not show it.
#
# Output seen on 2026-11-29:
#   torch.float64   normalize(0) 0.0   cosine(0, 1) 0.0   length of normalize(1e-6) 1.000
#   torch.float32   normalize(0) 0.0   cosine(0, 1) 0.0   length of normalize(1e-6) 1.000
#   torch.bfloat16  normalize(0) 0.0   cosine(0, 1) 0.0   length of normalize(1e-6) 1.000
#   torch.float16   normalize(0) nan   cosine(0, 1) nan   length of normalize(1e-6) 1.000
#   float16 with eps=1e-7: [[0.0, 0.0, 0.0, 0.0]]
#   torch.float32   in-batch loss of 8 rows, one of them zero: 0.260
#   torch.bfloat16  in-batch loss of 8 rows, one of them zero: 0.260
#   torch.float16   in-batch loss of 8 rows, one of them zero: nan
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import math

import torch
import torch.nn.functional as F

for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    zero, one, short = (torch.full((1, 4), value, dtype=dtype) for value in (0.0, 1.0, 1e-6))
    unit = F.normalize(zero, dim=-1)[0, 0].item()
    cosine = F.cosine_similarity(zero, one).item()
    print(f"{str(dtype):15s} normalize(0) {unit}   cosine(0, 1) {cosine}"
          f"   length of normalize(1e-6) {F.normalize(short, dim=-1).norm().item():.3f}")
    if dtype is torch.float16:
        assert math.isnan(unit) and math.isnan(cosine)
    else:
        assert unit == 0 and cosine == 0
    assert abs(F.normalize(short, dim=-1).norm().item() - 1) < 0.02

zero = torch.zeros(1, 4, dtype=torch.float16)
print("float16 with eps=1e-7:", F.normalize(zero, dim=-1, eps=1e-7).tolist())
assert F.normalize(zero, dim=-1, eps=1e-7).abs().max() == 0

torch.manual_seed(0)
rows = torch.randn(8, 16)
rows[5] = 0
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    unit = F.normalize(rows.to(dtype), dim=-1)
    loss = F.cross_entropy((unit @ unit.T).float() * 20, torch.arange(8)).item()
    print(f"{str(dtype):15s} in-batch loss of 8 rows, one of them zero: {loss:.3f}")
    assert math.isnan(loss) == (dtype is torch.float16)
PY
"$work/venv/bin/python" "$work/check.py"
