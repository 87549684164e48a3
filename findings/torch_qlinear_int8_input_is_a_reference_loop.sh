#!/usr/bin/env bash
# torch 2.13.0 (CPU), on a processor with AVX-512 VNNI (elsewhere the script says so and ends)
#
# Behaviour: torch.ops.onednn.qlinear_pointwise takes 8-bit activations as int8 and as uint8, and gives the same numbers
# for both. With uint8 it runs at four times the float32 rate. With int8, the type of every symmetric scheme and of the
# weights beside it, the same product of 256 x 384 and 384 x 1536 takes seconds: oneDNN has no kernel for the pair and
# takes its reference loop, without a warning. torch._int_mm, which also sees int8 on both sides, is quick.
# The way out is a zero point of 128: flip the top bit, (q.view(torch.uint8) ^ 128), and pass 128.
#
# Why a good guess misses: int8 x int8 is what oneDNN's documentation and VNNI's compensation trick are about, torch._int_mm
# does it well, the result is right, and a test with small matrices is over at once. And flipping looks dearer than it
# is for another reason: x.to(torch.uint8), the obvious way to the unsigned type, is not vectorised and takes several
# times as long as x.to(torch.int8), so that one measures the conversion and blames the zero point.
#
# Output seen on 2026-11-29 (two cores of an AMD EPYC beside other work; figures vary, their order does not):
#   256 x 384 x 1536: float32 3.57 ms, _int_mm 0.73 ms, qlinear uint8 0.75 ms, qlinear int8 19403 ms
#   1024 x 1536 numbers: to int8 0.09 ms, to uint8 0.80 ms
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import time

import torch

if not torch.cpu.get_capabilities().get("avx512_vnni"):
    raise SystemExit("this processor has no AVX-512 VNNI: nothing to see here")
torch.set_num_threads(1)


def best(run, rounds):
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


torch.manual_seed(0)
x = torch.randint(-127, 128, (256, 384), dtype=torch.int8)
w = torch.randint(-127, 128, (1536, 384), dtype=torch.int8)
packed = torch.ops.onednn.qlinear_prepack(w, None)
scales, zeros = torch.ones(1536), torch.zeros(1536, dtype=torch.int32)


def product(q, zero):
    return torch.ops.onednn.qlinear_pointwise(
        q, 1.0, zero, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


flip = x.view(torch.uint8) ^ 128
right = x.double() @ w.double().T
assert torch.equal(product(x, 0).double(), right) and torch.equal(product(flip, 128).double(), right)
single = best(lambda: x.float() @ w.float().T, 10)
signed, unsigned = best(lambda: product(x, 0), 2), best(lambda: product(flip, 128), 10)
plain = best(lambda: torch._int_mm(x, w.t()), 10)
print(f"256 x 384 x 1536: float32 {single * 1e3:.2f} ms, _int_mm {plain * 1e3:.2f} ms, "
      f"qlinear uint8 {unsigned * 1e3:.2f} ms, qlinear int8 {signed * 1e3:.0f} ms")
y = torch.randn(1024, 1536) * 20 + 128
to_signed, to_unsigned = best(lambda: y.to(torch.int8), 20), best(lambda: y.to(torch.uint8), 20)
print(f"1024 x 1536 numbers: to int8 {to_signed * 1e3:.2f} ms, to uint8 {to_unsigned * 1e3:.2f} ms")
assert signed > 100 * unsigned, "int8 activations are quick now"
assert to_unsigned > 2 * to_signed, "the conversion to uint8 is quick now"
PY
"$work/venv/bin/python" "$work/check.py"
