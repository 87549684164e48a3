#!/usr/bin/env bash
# peft 0.21.2, torch 2.13.0 (CPU), transformers 5.23.0
#
# Behaviour: add_weighted_adapter(..., combination_type="linear") does not add up the updates of two LoRA adapters. The
# average (0.5, 0.5) of an adapter and an exact copy of it is TWICE the adapter, the sum (1, 1) four times it, and 0.9
# and 0.1 give 1.6 times. For two independent adapters of equal size the result is about as far from the weighted sum
# as the sum is long: an error of 0.96 of its length. "cat" gives the weighted sum exactly. "dare_linear" at density 1
# is as "linear".
#
# Why a good guess misses: the name, and that one adapter alone with a weight w gives w times its update, as it should.
# The weights' square roots go to the two factors A and B, which are then added up each for itself, so that the product
# holds the mixed terms B1 A2 and B2 A1 too. For checkpoints of one run the mixed terms are nearly the wanted ones once
# more, for strangers they are noise. "linear" is also the way that takes adapters of one rank and keeps that rank.
#
# Output seen on 2026-11-30:
#   an adapter and its copy, weights [0.5, 0.5]: linear 2.00 times the adapter, wanted 1.00
#   an adapter and its copy, weights [1.0, 1.0]: linear 4.00 times the adapter, wanted 2.00
#   an adapter and its copy, weights [0.9, 0.1]: linear 1.60 times the adapter, wanted 1.00
#   two adapters, weights [0.5, 0.5]: linear      off by 0.96 of the length of the weighted sum
#   two adapters, weights [1.0, -1.0]: linear      off by 1.01 of the length of the weighted sum
#   two adapters, weights [0.5, 0.5]: dare_linear off by 0.96 of the length of the weighted sum
#   two adapters, weights [1.0, -1.0]: dare_linear off by 1.01 of the length of the weighted sum
#   two adapters, weights [0.5, 0.5]: cat         off by 0.00 of the length of the weighted sum
#   two adapters, weights [1.0, -1.0]: cat         off by 0.00 of the length of the weighted sum
#   one adapter alone, weights 2, 0.5, -1: exact
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.2 torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
settings = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=False)
model = get_peft_model(nn.Sequential(nn.Linear(64, 48, bias=False)), settings, "one")
for name in ("copy", "other"):
    model.add_adapter(name, settings)
layer = model.base_model.model[0]
with torch.no_grad():
    layer.lora_A["copy"].weight.copy_(layer.lora_A["one"].weight)
    layer.lora_B["copy"].weight.copy_(layer.lora_B["one"].weight)


def update(names, weights, kind):
    settings = {"density": 1.0} if kind.startswith("dare") else {}
    model.add_weighted_adapter(names, weights, "mixed", combination_type=kind, **settings)
    found = layer.get_delta_weight("mixed").detach()
    model.delete_adapter("mixed")
    return found


one, other = (layer.get_delta_weight(name).detach() for name in ("one", "other"))
for weights, factor in (([0.5, 0.5], 2), ([1.0, 1.0], 4), ([0.9, 0.1], 1.6)):
    found = update(["one", "copy"], weights, "linear")
    times = float((found * one).sum() / (one * one).sum())
    print(f"an adapter and its copy, weights {weights}: linear {times:.2f} times the adapter, wanted {sum(weights):.2f}")
    assert (found - factor * one).norm() < 1e-4 * one.norm()
    assert (update(["one", "copy"], weights, "cat") - sum(weights) * one).norm() < 1e-5 * one.norm()
for kind in ("linear", "dare_linear", "cat"):
    for weights in ([0.5, 0.5], [1.0, -1.0]):
        wanted = weights[0] * one + weights[1] * other
        error = float((update(["one", "other"], weights, kind) - wanted).norm() / wanted.norm())
        print(f"two adapters, weights {weights}: {kind:11s} off by {error:.2f} of the length of the weighted sum")
        assert error < 1e-5 if kind == "cat" else error > 0.9
for weight in (2.0, 0.5, -1.0):
    assert (update(["one"], [weight], "linear") - weight * one).norm() < 1e-5 * one.norm()
print("one adapter alone, weights 2, 0.5, -1: exact")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/check.py"
