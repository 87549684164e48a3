#!/usr/bin/env bash
# kornia 0.9.0, torch 2.13.0 (CPU)
#
# Behaviour: kornia's augmentations go on augmenting after eval(). They are modules that kornia proposes to put in
# front of a network, so that they run on its device; of such a model model.eval() stops dropout and batch norm, and
# the images are flipped, cropped and recoloured at random all the same, under no_grad() too. The vectors of one image
# from two calls of an evaluated model have a cosine well below 1, and an index built with it matches nothing exactly.
#
# Why a good guess misses: torch's random modules (Dropout, and in timm DropPath and PatchDropout) all end with eval(),
# and these have the attribute training like every module, set to False here. Nothing reads it. AugmentationSequential,
# their own container, does the same.
#
# Output seen on 2026-12-01:
#   eval(), the network alone                lowest cosine of an image's two vectors 1.0000
#   eval(), Sequential with augmentations    lowest cosine of an image's two vectors 0.4991
#   eval(), AugmentationSequential in front  lowest cosine of an image's two vectors 0.5514
#   eval(), RandomResizedCrop      changes 1.00 of the images
#   eval(), RandomHorizontalFlip   changes 0.62 of the images
#   eval(), ColorJitter            changes 1.00 of the images
#   eval(), RandomErasing          changes 1.00 of the images
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check kornia==0.9.0 torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import kornia.augmentation as augmentation
import torch
from torch import nn

torch.manual_seed(0)
images = torch.rand(8, 3, 32, 32)
network = nn.Sequential(nn.Conv2d(3, 16, 5, stride=3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16 * 100, 32))
parts = [
    augmentation.RandomResizedCrop((32, 32), p=1.0),
    augmentation.RandomHorizontalFlip(p=0.5),
    augmentation.ColorJitter(0.4, 0.4, 0.4, 0.1, p=1.0),
    augmentation.RandomErasing(p=1.0),
]


def lowest_cosine(model):
    with torch.no_grad():
        first, second = model(images), model(images)
    return float(nn.functional.cosine_similarity(first, second).min())


models = {
    "the network alone": network,
    "Sequential with augmentations": nn.Sequential(*parts, network),
    "AugmentationSequential in front": nn.Sequential(augmentation.AugmentationSequential(*parts), network),
}
for title, model in models.items():
    model.eval()
    assert not any(module.training for module in model.modules())
    cosine = lowest_cosine(model)
    print(f"eval(), {title:32s} lowest cosine of an image's two vectors {cosine:.4f}")
    assert (cosine > 0.999999) == (model is network) and (model is network or cosine < 0.95)
for part in parts:
    part.eval()
    changed = float((part(images) - images).abs().amax(dim=(1, 2, 3)).gt(0.05).float().mean())
    print(f"eval(), {type(part).__name__:22s} changes {changed:.2f} of the images")
    assert changed > 0.1
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/check.py"
