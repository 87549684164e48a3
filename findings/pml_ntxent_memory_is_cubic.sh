#!/usr/bin/env bash
# pytorch-metric-learning 2.9.0, torch 2.14.1 (CPU)
#
# Behaviour: NTXentLoss on a batch of n pairs makes arrays of n * n * (n - 1) numbers: its memory grows with the cube of the
# batch. For 4,096 pairs one such array of float32 is 256 GiB. SupConLoss of the same library gives the same value on the
# same pairs (an anchor has one positive); its largest array lists the n * (n - 1) negative pairs, 256 MiB.
#
# Why a good guess misses: the loss is the one with in-batch negatives, a cross-entropy over the rows of an n x n matrix of
# similarities, and every other implementation of it has that matrix as its largest array; batches of thousands are what
# it is for. Here each positive pair is put against the list of all negative pairs of the batch, and those of other anchors
# are masked afterwards.
#
# Output seen on 2026-11-30 (pairs, bytes of the largest array by NTXentLoss and by SupConLoss, both losses):
#   64      1032192      64512    6.9361    6.9361
#  128      8323072     260096    7.8851    7.8851
#  256     66846720    1044480    8.2765    8.2765
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 pytorch-metric-learning==2.9.0
cat >"$work/check.py" <<'PY'
import torch
from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss, SupConLoss
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """The largest array that any operation gives, in bytes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


torch.manual_seed(0)
rows = []
for pairs in (64, 128, 256):
    anchors, positives = torch.randn(pairs, 64), torch.randn(pairs, 64)
    row = [pairs]
    for loss in (NTXentLoss(0.05), SupConLoss(0.05)):
        with Largest() as largest:
            value = SelfSupervisedLoss(loss, symmetric=False)(anchors, positives)
        row += [largest.bytes, value.item()]
    rows.append(row)
    print(f"{row[0]:4} {row[1]:12} {row[3]:10} {row[2]:9.4f} {row[4]:9.4f}")
for pairs, cubic, one, square, other in rows:
    assert abs(one - other) < 1e-4 * one
    assert cubic >= 4 * pairs * pairs * (pairs - 1) and square <= 16 * pairs * pairs
PY
"$work/venv/bin/python" "$work/check.py"
