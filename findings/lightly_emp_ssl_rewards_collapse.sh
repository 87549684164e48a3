#!/usr/bin/env bash
# lightly 1.6.0, torch 2.14.1 (CPU)
#
# Behaviour: EMPSSLLoss with its defaults falls when the images of a batch get vectors on one line. It adds the total
# coding rate, the volume that the vectors span, to the invariance of the views. Free vectors that are trained by it from
# random ones end with an effective rank of 1.15 of 16; with the rate taken off instead, as a loss of the paper's maximum
# is, they end with all 16.
#
# Why a good guess misses: the paper maximises the coding rate minus a distance of the views, the rate is what keeps the
# vectors from collapsing, and the class names the paper and its repository. Both terms have the right form and only one
# sign is another, and a loss that falls while views agree looks like success.
#
# Output seen on 2026-11-30 (mean |cosine| of different images, effective rank, coding rate; 32 images, 4 views):
#   start                                0.20   12.68   12.93
#   EMPSSLLoss                           0.96    1.15    2.81
#   the same with the rate taken off     0.14   16.00   14.33
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision lightly==1.6.0
cat >"$work/check.py" <<'PY'
import torch
from lightly.loss import EMPSSLLoss
from lightly.loss.emp_ssl_loss import tcr_loss
from torch.nn.functional import normalize

torch.manual_seed(0)
start = torch.randn(32, 16)
loss = EMPSSLLoss()


def figures(vectors):
    z = normalize(vectors, dim=1)
    cosine = (z @ z.T).masked_select(~torch.eye(len(z), dtype=torch.bool)).abs().mean().item()
    share = torch.linalg.svdvals(z).square()
    share = share / share.sum()
    rank = torch.exp(-(share * share.clamp_min(1e-12).log()).sum()).item()
    return cosine, rank, tcr_loss(z[None], eps=0.2).item()


def trained(objective):
    views = (start + 0.01 * torch.randn(4, 32, 16)).requires_grad_()
    optimiser = torch.optim.Adam([views], lr=0.02)
    for _ in range(400):
        optimiser.zero_grad()
        objective([normalize(view, dim=1) for view in views]).backward()
        optimiser.step()
    return figures(views.detach().mean(0))


found = {
    "start": figures(start),
    "EMPSSLLoss": trained(loss),
    "the same with the rate taken off": trained(lambda z: loss(z) - 2 * tcr_loss(torch.stack(z), eps=0.2)),
}
for name, row in found.items():
    print(f"{name:34}", "  ".join(f"{value:6.2f}" for value in row))
cosine, rank, rate = found["EMPSSLLoss"]
assert cosine > 0.9 and rank < 1.5 and rate < found["start"][2] / 2
cosine, rank, rate = found["the same with the rate taken off"]
assert cosine < 0.2 and rank > 15 and rate > found["start"][2]
PY
"$work/venv/bin/python" "$work/check.py"
