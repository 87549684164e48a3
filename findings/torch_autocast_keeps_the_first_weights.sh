#!/usr/bin/env bash
# torch 2.13.0 (CPU)
#
# Behaviour: inside one `with torch.autocast(...)` block a model keeps the weights of its first forward pass. A training
# loop in the block (forward, backward, step) runs: the gradients are there, the weights move at every step, and the
# loss is the same number 50 times. And with gradients off, two checkpoints that are loaded into one model within the
# block, one after the other, give the same vectors bit for bit, so that the second has the score of the first; an
# autocast block around each single pass does not help while there is one around them all. Weights with
# requires_grad=False, torch.inference_mode() and cache_enabled=False are as one expects.
#
# Why a good guess misses: the block is known to choose the type of each operation, and is said to belong around the
# forward pass alone for the sake of speed and of the gradients' type. That weights are turned to bfloat16 once and kept
# until the OUTERMOST block ends is told of as a saving of time, and one takes it to notice a write in place, as
# autograd does (it counts the versions of a tensor). load_state_dict and optimisers write in place, so the cache, which
# goes by the tensor, sees the same one. no_grad() is no way out, since the weights still ask for gradients.
#
# Output seen on 2026-12-01:
#   training,    a block a pass                  loss 1.1535 ... 0.7840, 50 values; a weight moved by 0.10
#   checkpoints, a block a pass                  no_grad(), their vectors differ by 1.38
#   training,    one block around all            loss 1.1535 ... 1.1535,  1 values; a weight moved by 0.19
#   checkpoints, one block around all            no_grad(), their vectors differ by 0.00
#   training,    both                            loss 1.1535 ... 1.1535,  1 values; a weight moved by 0.19
#   checkpoints, both                            no_grad(), their vectors differ by 0.00
#   training,    one block, cache_enabled=False  loss 1.1535 ... 0.7840, 50 values; a weight moved by 0.10
#   checkpoints, one block, cache_enabled=False  no_grad(), their vectors differ by 1.38
#   checkpoints, one block around all            inference_mode(), their vectors differ by 1.38
#   checkpoints, one block around all            no_grad(), requires_grad=False, their vectors differ by 1.38
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
from contextlib import nullcontext

import torch
from torch import nn

torch.manual_seed(0)
inputs, targets = torch.randn(64, 16), torch.randn(64, 4)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))


def block(inside, **settings):
    return torch.autocast("cpu", torch.bfloat16, **settings) if inside else nullcontext()


def train(outer, inner, **settings):
    """The losses of 50 steps, and how far the first weight went; one autocast block around all, or one a pass."""
    model = network(1)
    start = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with block(outer, **settings):
        for _ in range(50):
            with block(inner, **settings):
                loss = (model(inputs) - targets).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, float((model[0].weight - start).abs().max())


def second_checkpoint(outer, inner, context, frozen=False, **settings):
    """How far the vectors of two checkpoints are apart that one model holds one after the other."""
    model, other = network(1).requires_grad_(not frozen), network(2).state_dict()
    with block(outer, **settings), context():
        with block(inner, **settings):
            first = model(inputs)
        model.load_state_dict(other)
        with block(inner, **settings):
            second = model(inputs)
    return float((first - second).abs().max())


for title, places, settings in (
    ("a block a pass", (False, True), {}),
    ("one block around all", (True, False), {}),
    ("both", (True, True), {}),
    ("one block, cache_enabled=False", (True, False), {"cache_enabled": False}),
):
    losses, moved = train(*places, **settings)
    print(f"training,    {title:31s} loss {losses[0]:.4f} ... {losses[-1]:.4f}, {len(set(losses)):2d} values; a weight moved by {moved:.2f}")
    stale = places[0] and not settings
    assert moved > 0.03 and (len(set(losses)) == 1) == stale and (stale or losses[-1] < 0.8 * losses[0])
    apart = second_checkpoint(*places, torch.no_grad, **settings)
    print(f"checkpoints, {title:31s} no_grad(), their vectors differ by {apart:.2f}")
    assert (apart == 0) == stale and (stale or apart > 0.3)
for title, context, frozen in (("inference_mode()", torch.inference_mode, False), ("no_grad(), requires_grad=False", torch.no_grad, True)):
    apart = second_checkpoint(True, False, context, frozen)
    print(f"checkpoints, one block around all            {title}, their vectors differ by {apart:.2f}")
    assert apart > 0.3
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/check.py"
