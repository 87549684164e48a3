#!/usr/bin/env bash
# sentence-transformers 6.2.0, torch 2.14.1 (CPU)
#
# Behaviour: the four triplet losses by label disagree about a batch in which no triplet exists. With six texts of one
# class (no negative anywhere) BatchAllTripletLoss is 0 without a gradient, but BatchSemiHardTripletLoss is several times
# that of a good batch and pulls all texts together, and BatchHardTripletLoss is exactly its margin. With six texts of
# six classes (no positive anywhere) the semi-hard loss is 0, but BatchHardTripletLoss pushes every text away from its
# nearest neighbour.
#
# Why a good guess misses: a triplet needs an anchor, a positive and a negative, so a batch without any should cost
# nothing in all four, as it does in the first. In the others the text itself steps in, at distance 0: as the farthest
# negative (semi-hard), as the nearest one (hard, whose mask adds the row's maximum), as the hardest positive (hard). A
# group that is alone in its batch is common at the end of an epoch and with few classes.
#
# Output seen on 2026-11-29 (loss, sum of the absolute gradient):
#   one class    BatchAll 0.00 0.00   BatchHard 5.00 0.00   BatchSemiHard 7.71 2.60
#   six classes  BatchAll 0.00 0.00   BatchHard 3.38 2.74   BatchSemiHard 0.00 0.00
#   pairs        BatchAll 5.51 2.17   BatchHard 6.50 2.78   BatchSemiHard 4.97 2.58
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.14.1 sentence-transformers==6.2.0
cat >"$work/check.py" <<'PY'
import torch
from sentence_transformers import losses
from torch import nn


class Echo(nn.Module):
    """Stands for a model: the features are the vectors."""

    def forward(self, features):
        return dict(features)


torch.manual_seed(0)
z = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
found = {}
for batch, labels in (("one class", [0] * 6), ("six classes", list(range(6))), ("pairs", [0, 0, 1, 1, 2, 2])):
    parts = []
    for name in ("BatchAll", "BatchHard", "BatchSemiHard"):
        loss = getattr(losses, f"{name}TripletLoss")(Echo())([{"sentence_embedding": z}], torch.tensor(labels))
        (gradient,) = torch.autograd.grad(loss, z)
        found[batch, name] = loss.item(), gradient.abs().sum().item()
        parts.append("{} {:.2f} {:.2f}".format(name, *found[batch, name]))
    print(f"{batch:12}", "   ".join(parts))

assert found["one class", "BatchAll"] == found["six classes", "BatchAll"] == (0.0, 0.0)
assert found["one class", "BatchSemiHard"][0] > found["pairs", "BatchSemiHard"][0]
assert found["one class", "BatchSemiHard"][1] > 1.0
assert abs(found["one class", "BatchHard"][0] - 5.0) < 1e-9
assert found["six classes", "BatchHard"][1] > 1.0 and found["six classes", "BatchSemiHard"] == (0.0, 0.0)
PY
export HF_HUB_OFFLINE=1
"$work/venv/bin/python" "$work/check.py"
