#!/usr/bin/env bash
# timm 1.0.31, torch 2.14.1, torchvision 0.29.1
#
# Behaviour: features of a trained ViT with mean pooling come out through a last norm that was never trained.
# create_model(..., pretrained=True, num_classes=0, global_pool="avg") puts a new LayerNorm behind the pooling, of which
# the checkpoint has no weights, and leaves the checkpoint's own last norm out. It loads all the same: the new norm keeps
# ones and zeros, and one log line says that keys "may be expected if model is being adapted". The same call with the
# classifier kept (no num_classes=0) raises "Missing key(s) in state_dict". With fc_norm=False, or by
# reset_classifier(0, global_pool="avg") after loading, the trained norm is used: two documented ways to mean-pooled
# features of one checkpoint give different vectors.
#
# Why a good guess misses: num_classes=0 and global_pool are both documented as ways to change how features are read, not
# which weights are read, and the guess is that either the two ways agree or the load fails, as it does with the
# classifier. But the argument moves the norm (self.norm becomes an Identity, self.fc_norm a LayerNorm), and loading is
# strict only where a classifier is kept.
#
# Output seen on 2026-11-30:
#   the trained last norm: largest |weight - 1| 1.15
#   num_classes=0, reset_classifier(0, "avg")              norm trained    features 0.000e+00 beside the mean of the tokens
#   num_classes=0, global_pool="avg", fc_norm=False        norm trained    features 0.000e+00 beside the mean of the tokens
#   num_classes=0, global_pool="avg"                       norm ones       features 1.672e+00 beside the mean of the tokens
#   global_pool="avg" with the classifier                  RuntimeError: Missing key(s) in state_dict
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check timm==1.0.31 torch==2.14.1 torchvision==0.29.1
cat >"$work/check.py" <<'PY'
import sys

import timm
import torch

folder = sys.argv[1]
torch.manual_seed(0)
trained = timm.create_model("test_vit", num_classes=10)
with torch.no_grad():
    for parameter in trained.parameters():
        parameter.add_(0.5 * torch.randn_like(parameter))
trained.eval()
timm.models.save_for_hf(trained, folder, safe_serialization=True)
print(f"the trained last norm: largest |weight - 1| {(trained.norm.weight - 1).abs().max():.2f}")
pixels = torch.randn(4, 3, 160, 160)
with torch.inference_mode():
    mean = trained.forward_features(pixels)[:, 1:].mean(1)  # normalised tokens without the class token


def read(**arguments):
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **arguments).eval()


def show(title, model):
    norm = model.norm if isinstance(model.norm, torch.nn.LayerNorm) else model.fc_norm
    fresh = torch.equal(norm.weight, torch.ones_like(norm.weight))
    with torch.inference_mode():
        difference = (model(pixels) - mean).abs().max().item()
    print(f"{title:54s} norm {'ones' if fresh else 'trained':10s} features {difference:.3e} beside the mean of the tokens")
    return fresh, difference


after = read(num_classes=0)
after.reset_classifier(0, global_pool="avg")
fresh, difference = show('num_classes=0, reset_classifier(0, "avg")', after)
assert not fresh and difference < 1e-5
fresh, difference = show('num_classes=0, global_pool="avg", fc_norm=False', read(num_classes=0, global_pool="avg", fc_norm=False))
assert not fresh and difference < 1e-5
fresh, difference = show('num_classes=0, global_pool="avg"', read(num_classes=0, global_pool="avg"))
assert fresh and difference > 0.5
try:
    read(global_pool="avg")
except RuntimeError as error:
    assert "fc_norm.weight" in str(error)
    print('global_pool="avg" with the classifier                  RuntimeError: Missing key(s) in state_dict')
else:
    raise AssertionError("the load with a classifier was strict")
PY
"$work/venv/bin/python" "$work/check.py" "$work/model"
