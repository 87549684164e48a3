#!/usr/bin/env bash
# torchvision 0.29.1, torch 2.14.1 (CPU)
#
# Behaviour: v2.RandomErasing(value="random") on a uint8 image puts no noise in but black with white specks: two thirds
# of the values are 0, a sixth are 1 to 3, the others 253 to 255, and none lies between. On the same image as float the
# patch holds normal numbers around 0. value=(124, 116, 104) does on uint8 what it says.
#
# Why a good guess misses: the documentation says that each pixel is erased with random values, and uint8 is the type
# that v2's guide recommends for speed and that the other transforms of v2 treat by its range (0 to 255, where a float
# has 0 to 1). This one draws from the normal distribution for every type and lets the assignment cut it off, so that
# what lies between -1 and 1 is 0, and -1 becomes 255 (on x86; a processor that stops at 0 has black alone). A pipeline
# that goes from floats to bytes for speed erases with another pattern than before.
#
# Output seen on 2026-12-01:
#   uint8    value='random': 226071 values, quantiles at 10, 25, 50, 75, 90 %: [0.0, 0.0, 0.0, 1.0, 255.0], standard deviation 93.29
#            0: 0.68 of the values; between 5 and 250: 0.00
#   float32  value='random': 225780 values, quantiles at 10, 25, 50, 75, 90 %: [-1.27, -0.67, 0.01, 0.67, 1.28], standard deviation 1.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torchvision==0.29.1 torch==2.14.1 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import torch
from torchvision.transforms import v2

torch.manual_seed(0)
grey = torch.full((3, 224, 224), 128, dtype=torch.uint8)
for title, image in (("uint8", grey), ("float32", grey.float() / 255)):
    erase = v2.RandomErasing(p=1.0, scale=(0.3, 0.3), value="random")
    patch = torch.cat([changed[changed != image].float() for changed in (erase(image) for _ in range(5))])
    quantiles = [round(value, 2) for value in torch.quantile(patch[:100_000], torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])).tolist()]
    print(f"{title:8s} value='random': {len(patch):6d} values, quantiles at 10, 25, 50, 75, 90 %: {quantiles}, standard deviation {patch.std():.2f}")
    if title == "uint8":
        black, ends = (float(found.float().mean()) for found in (patch == 0, (patch > 5) & (patch < 250)))
        print(f"         0: {black:.2f} of the values; between 5 and 250: {ends:.2f}")
        assert black > 0.6 and ends == 0
    else:
        assert abs(float(patch.mean())) < 0.02 and abs(float(patch.std()) - 1) < 0.02
patch = v2.RandomErasing(p=1.0, scale=(0.3, 0.3), value=(124, 116, 104))(grey)
assert {int(channel[channel != 128].unique()) for channel in patch} == {124, 116, 104}
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/check.py"
