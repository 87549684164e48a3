#!/usr/bin/env bash
# torch 2.13.0 (CPU), on a processor with AVX-512 (elsewhere the step stands at 8 columns, or the script says so and ends)
#
# Behaviour: torch.softmax over the last axis takes, for the same number of numbers, about 14 times as long with 15
# columns as with 16, and its gradient about 20 times as long. Rows shorter than a vector register of float32 go through
# one exponential at a time. The attention of a batch of short texts (scores of n x heads rows of 8 to 15 tokens) spends
# more time in softmax than in both of its products; padding a text of 15 tokens to 16 makes the layer faster.
# The same softmax written out (subtract amax, exp_, divide by the sum) has no such step and takes a sixth of the time.
#
# Why a good guess misses: the cost of a softmax is taken to follow the count of exponentials, and fewer columns mean a
# smaller problem. Benchmarks use 64, 128 or 512 tokens. Written-out softmax is known to be the slow form, with three
# passes for one, and here the fused kernel is the slow one. A profile of an encoder shows a cheap-looking softmax, since
# the mean length of a batch, not each length, is what one looks at.
#
# Output seen on 2026-11-29 (one thread of an AMD EPYC beside other work; figures vary, their order does not):
#   480,000 numbers,  8 columns: softmax 12.66 ms, gradient  3.40 ms, by hand  1.57 ms
#   480,000 numbers, 15 columns: softmax 12.25 ms, gradient  3.34 ms, by hand  1.39 ms
#   480,000 numbers, 16 columns: softmax  0.61 ms, gradient  0.12 ms, by hand  1.15 ms
#   480,000 numbers, 32 columns: softmax  0.43 ms, gradient  0.09 ms, by hand  0.63 ms
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import time

import torch

flags = torch.cpu.get_capabilities()
if not flags.get("avx2"):
    raise SystemExit("this processor has no AVX2: nothing to see here")
register = 16 if flags.get("avx512_f") else 8
torch.set_num_threads(1)


def best(run):
    run()
    seconds = []
    for _ in range(15):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds) * 1e3


def by_hand(x):
    p = (x - x.amax(-1, keepdim=True)).exp_()
    return p.div_(p.sum(-1, keepdim=True))


times = {}
for columns in (register // 2, register - 1, register, 2 * register):
    x = torch.randn(480_000 // columns, columns)
    p, g = torch.softmax(x, -1), torch.randn_like(x)
    assert torch.allclose(p, by_hand(x), atol=1e-6)
    times[columns] = (
        best(lambda: torch.softmax(x, -1)),
        best(lambda: torch._softmax_backward_data(g, p, -1, torch.float32)),
        best(lambda: by_hand(x)),
    )
    print("480,000 numbers, {:2d} columns: softmax {:5.2f} ms, gradient {:5.2f} ms, by hand {:5.2f} ms".format(
        columns, *times[columns]))
short, full = times[register - 1], times[register]
assert short[0] > 4 * full[0], "softmax of short rows is quick now"
assert short[1] > 4 * full[1], "the gradient of short rows is quick now"
assert short[2] < 0.5 * short[0], "by hand it is no quicker now"
PY
"$work/venv/bin/python" "$work/check.py"
