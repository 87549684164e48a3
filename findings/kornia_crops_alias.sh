#!/usr/bin/env bash
# kornia 0.9.0, torch 2.13.0 (CPU)
#
# Behaviour: kornia's RandomResizedCrop, and its Resize, take single pixels out of an image that they make smaller. An
# image of 448 x 448 points of noise, made 56 x 56, keeps two thirds of the noise; the crop of torchvision (and Pillow),
# which is torch's interpolate with antialias=True, keeps a twelfth. Fine stripes (3 pixels wide a period) come out as
# stripes of full contrast and another width. Shifting the crop by one pixel gives another image: the two have a
# correlation near 0, with smoothing 0.96. Both cropping modes do it.
#
# Why a good guess misses: the class has the name, the arguments and the defaults of torchvision's, resample="bilinear"
# included, and is the usual way to move a training's augmentation to the GPU. The word for smoothing, antialias, is an
# argument of kornia's Resize (off) and none of RandomResizedCrop. Two crops of one photograph then differ in noise
# that no eye sees at once, which a contrastive loss asks the model to ignore, and evaluation, which smooths, shows the model
# images of another kind than training did.
#
# Output seen on 2026-12-01:
#   kornia RandomResizedCrop            keeps 0.68 of the noise, 0.71 of the stripes' contrast; the crop one pixel further is alike to 0.08
#   kornia RandomResizedCrop, resample  keeps 0.68 of the noise, 0.71 of the stripes' contrast; the crop one pixel further is alike to 0.08
#   kornia Resize                       keeps 0.68 of the noise, 0.71 of the stripes' contrast; the crop one pixel further is alike to 0.08
#   kornia Resize, antialias=True       keeps 0.09 of the noise, 0.00 of the stripes' contrast; the crop one pixel further is alike to 0.95
#   torch, antialias=True               keeps 0.08 of the noise, 0.01 of the stripes' contrast; the crop one pixel further is alike to 0.96
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check kornia==0.9.0 torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import inspect

import kornia.augmentation as augmentation
import torch
from torch.nn.functional import interpolate

torch.manual_seed(0)
noise = torch.rand(1, 3, 449, 449)
stripes = (0.5 + 0.5 * torch.sin(torch.arange(448) * 2 * torch.pi / 3)).expand(1, 3, 448, 448)
whole = {"scale": (1, 1), "ratio": (1, 1)}
ways = {
    "kornia RandomResizedCrop": augmentation.RandomResizedCrop((56, 56), **whole),
    "kornia RandomResizedCrop, resample": augmentation.RandomResizedCrop((56, 56), cropping_mode="resample", **whole),
    "kornia Resize": augmentation.Resize((56, 56)),
    "kornia Resize, antialias=True": augmentation.Resize((56, 56), antialias=True),
    "torch, antialias=True": lambda images: interpolate(images, (56, 56), mode="bilinear", antialias=True),
}
for title, make in ways.items():
    first, shifted = make(noise[..., :448, :448]), make(noise[..., 1:, 1:])
    kept = float(first.std() / noise.std())
    alike = float(torch.corrcoef(torch.stack([first.flatten(), shifted.flatten()]))[0, 1])
    contrast = float(make(stripes)[..., 4:-4, 4:-4].std() / stripes.std())
    print(f"{title:35s} keeps {kept:.2f} of the noise, {contrast:.2f} of the stripes' contrast; the crop one pixel further is alike to {alike:.2f}")
    if title.startswith("kornia RandomResizedCrop") or title == "kornia Resize":
        assert kept > 0.4 and contrast > 0.4 and abs(alike) < 0.3
    elif title.startswith("torch"):
        assert kept < 0.15 and contrast < 0.1 and alike > 0.8
assert "antialias" not in inspect.signature(augmentation.RandomResizedCrop).parameters
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/check.py"
