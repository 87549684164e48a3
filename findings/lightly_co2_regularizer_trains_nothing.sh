#!/usr/bin/env bash
# lightly 1.6.0, torch 2.14.1 (CPU)
#
# Behaviour: what CO2Regularizer gives carries no gradient, although it changes with its inputs. Added to NTXentLoss as
# its docstring says, it raises the loss and leaves the gradient of every vector bit for bit as it was, for any alpha. A
# run logs a falling regulariser and trains by the other loss alone.
#
# Why a good guess misses: it is a module that is called like a loss, on the two outputs of the model, and its value
# moves as it should. torch only warns, once, that a tensor is better copied by clone().detach().
#
# Output seen on 2026-11-30 (value, whether it requires a gradient, largest change of NTXentLoss' gradient):
#   alpha 1      9.1361     False  0.0
#   alpha 1000   9136.1445  False  0.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision lightly==1.6.0
cat >"$work/check.py" <<'PY'
import warnings

import torch
from lightly.loss import NTXentLoss
from lightly.loss.regularizer import CO2Regularizer

warnings.simplefilter("ignore")
torch.manual_seed(0)
first, second = (torch.randn(16, 8, requires_grad=True) for _ in range(2))
plain = torch.autograd.grad(NTXentLoss()(first, second), (first, second))
for alpha in (1, 1000):
    regulariser = CO2Regularizer(alpha=alpha)(first, second)
    both = torch.autograd.grad(NTXentLoss()(first, second) + regulariser, (first, second))
    change = max((a - b).abs().max().item() for a, b in zip(plain, both))
    print(f"alpha {alpha:<6} {regulariser.item():.4f}  {regulariser.requires_grad}  {change}")
    assert regulariser.item() > 0.001 * alpha and not regulariser.requires_grad and change == 0.0
PY
"$work/venv/bin/python" "$work/check.py"
