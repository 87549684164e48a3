#!/usr/bin/env bash
# torch 2.13.0 (CPU), on a processor of AMD with AVX-512 in one piece, family 26 (on others the script says so and ends;
# family 25 runs 512-bit instructions in two halves: AVX2 and AVX-512 both reach 100 GFLOP/s there, seen 2026-11-30)
#
# Behaviour: torch.nn.functional.linear of float32 reaches half or less of what the processor does. It goes through MKL,
# which takes its AVX2 code on processors that are not Intel's, whatever torch.backends.cpu.get_cpu_capability() says.
# oneDNN, in the same torch, uses AVX-512: torch.ops.mkldnn._linear_pointwise on the same tensors, plain weights, no
# copy, takes less than half of the time, to the same 1e-6. So the same layer in bfloat16 (which goes through oneDNN) looks
# 4 to 5 times as fast as in float32, of which the instructions explain 2.
#
# Why a good guess misses: torch prints "AVX512" and "USE_MKLDNN=ON", oneDNN is known as the library that torch uses for
# layers on a CPU, and torch.backends.mkldnn.enabled is True. A rate of 105 GFLOP/s a core looks like a full one (it is:
# of AVX2), so that a profile with 90 % of the time in addmm is read as "nothing left to win".
#
# Output seen on 2026-11-29 (one thread of an AMD EPYC of family 26, nothing beside it; busy neighbours halve oneDNN's rate):
#   2048 x  384 by  384 x 1536: linear 108 GFLOP/s, oneDNN 237 GFLOP/s, bfloat16 472 GFLOP/s
#   2048 x 1536 by 1536 x  384: linear 106 GFLOP/s, oneDNN 239 GFLOP/s, bfloat16 472 GFLOP/s
#   2048 x  768 by  768 x 3072: linear 104 GFLOP/s, oneDNN 227 GFLOP/s, bfloat16 445 GFLOP/s
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import time
from pathlib import Path

import torch
import torch.nn.functional as F

lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
about = {key.strip(): value.strip() for key, value in lines.items()}
is_whole = about.get("vendor_id") == "AuthenticAMD" and int(about.get("cpu family", 0)) >= 26
if not is_whole or not torch.cpu.get_capabilities().get("avx512_f"):
    raise SystemExit("this is no processor of AMD with AVX-512 in one piece: nothing to see here")
torch.set_num_threads(1)
assert torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def best(run):
    run()
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


for rows, inputs, outputs in ((2048, 384, 1536), (2048, 1536, 384), (2048, 768, 3072)):
    x, w, b = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    half = [tensor.bfloat16() for tensor in (x, w, b)]
    with torch.inference_mode():
        by_onednn = torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")
        assert (by_onednn - F.linear(x, w, b)).abs().max() < 1e-6 * inputs
        usual = best(lambda: F.linear(x, w, b))
        onednn = best(lambda: torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], ""))
        bf16 = best(lambda: F.linear(*half))
    rates = [2e-9 * rows * inputs * outputs / seconds for seconds in (usual, onednn, bf16)]
    print("{} x {:4d} by {:4d} x {:4d}: linear {:3.0f} GFLOP/s, oneDNN {:3.0f} GFLOP/s, bfloat16 {:3.0f} GFLOP/s".format(
        rows, inputs, inputs, outputs, *rates))
    assert onednn < 0.7 * usual, "linear uses AVX-512 now"
PY
"$work/venv/bin/python" "$work/check.py"
