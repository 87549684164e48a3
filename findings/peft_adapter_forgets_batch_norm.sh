#!/usr/bin/env bash
# peft 0.21.2, torch 2.13.0 (CPU), transformers 5.23.0
#
# Behaviour: an adapter of a network with batch normalisation does not come back. LoRA trains a small convolutional
# network to a loss of 0.003; save_pretrained, and from_pretrained on the very base it began with, gives 0.2, in eval
# mode, without a word. The running means and variances of the frozen BatchNorm layers went on moving while the adapter
# was trained, the adapter was fitted to them, and the folder holds the factors A and B alone. merge_and_unload() before
# saving keeps them, and so do modules_to_save with the BatchNorm layers or eval mode for them while training.
#
# Why a good guess misses: "the base is frozen" is what an adapter rests on, all its parameters have
# requires_grad=False, their values are the same before and after, and with the layers of transformers (LayerNorm) the
# adapter comes back to the last digit. Running statistics are no parameters: train() moves them whatever asks for
# gradients. The trained model itself is right until it is loaded elsewhere, and the cosine of old and new vectors is
# high, so that a look at a few does not show it.
#
# Output seen on 2026-12-01:
#   BatchNorm                        loss in eval mode: trained 0.0068, merged 0.0068, loaded again 0.2040; lowest cosine of old and new vectors 0.9972; parameters of the base unchanged: True
#   GroupNorm                        loss in eval mode: trained 0.0016, merged 0.0016, loaded again 0.0016; lowest cosine of old and new vectors 1.0000; parameters of the base unchanged: True
#   BatchNorm in eval mode           loss in eval mode: trained 0.0056, merged 0.0056, loaded again 0.0056; lowest cosine of old and new vectors 1.0000; parameters of the base unchanged: True
#   BatchNorm in modules_to_save     loss in eval mode: trained 0.0064, merged 0.0064, loaded again 0.0064; lowest cosine of old and new vectors 1.0000; parameters of the base unchanged: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.2 torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

torch.manual_seed(0)
images = torch.randn(32, 3, 12, 12) * 2 + 1


def base(norm):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3), norm(), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8)]
    return nn.Sequential(*layers)


def measure(title, norm, frozen=False, keep=None):
    """Train an adapter, save it, load it on a fresh copy of the base; the losses in eval mode before and after."""
    start = base(norm)
    parameters = {name: tensor.clone() for name, tensor in start.named_parameters()}
    model = get_peft_model(start, LoraConfig(r=2, target_modules=["3", "6"], modules_to_save=keep))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model.train()
    if frozen:
        for module in model.modules():
            module.train(not isinstance(module, nn.BatchNorm2d))
    for _ in range(100):
        loss = (model(images) - 1).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    folder = f"{sys.argv[1]}/{title}".replace(" ", "-")
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(base(norm), folder).eval()
    held = {name.replace("base_model.model.", "").replace("base_layer.", ""): p for name, p in model.named_parameters()}
    same = all(torch.equal(held[name], tensor) for name, tensor in parameters.items() if name in held)
    with torch.no_grad():
        before, after = model(images), loaded(images)
        merged = model.merge_and_unload()(images)
    losses = [float((vectors - 1).pow(2).mean()) for vectors in (before, after, merged)]
    cosine = float(nn.functional.cosine_similarity(before, after).min())
    print(f"{title:32s} loss in eval mode: trained {losses[0]:.4f}, merged {losses[2]:.4f}, loaded again {losses[1]:.4f};"
          f" lowest cosine of old and new vectors {cosine:.4f}; parameters of the base unchanged: {same}")
    return losses, same


for title, norm, settings in (
    ("BatchNorm", lambda: nn.BatchNorm2d(8), {}),
    ("GroupNorm", lambda: nn.GroupNorm(2, 8), {}),
    ("BatchNorm in eval mode", lambda: nn.BatchNorm2d(8), {"frozen": True}),
    ("BatchNorm in modules_to_save", lambda: nn.BatchNorm2d(8), {"keep": ["1"]}),
):
    (trained, loaded, merged), same = measure(title, norm, **settings)
    assert trained < 0.05 and abs(merged - trained) < 1e-3
    assert (loaded > 10 * trained) == (title == "BatchNorm") and (title == "BatchNorm" or abs(loaded - trained) < 1e-4)
    assert same or title == "BatchNorm in modules_to_save"
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/check.py" "$work"
