#!/usr/bin/env bash
# peft 0.21.2, torch 2.13.0 (CPU), transformers 5.23.0
#
# Behaviour: LoRA on linear1 and linear2 (or on self_attn) of torch.nn.TransformerEncoderLayer acts in train mode and is
# gone in eval mode, with gradients on or off: there the outputs are those of the base model, to the last digits. The
# adapter has gradients and a falling loss, but validation and inference never see it. After merge_and_unload() it acts
# in eval mode too, and a layer made with a Python function as its activation (lambda x: x.relu()) never loses it. No
# error, no warning.
#
# Why a good guess misses: eval() is known to change dropout and batch norm, never what a layer with dropout 0 computes,
# and LoRA on the linear layers of a hand-written or transformers encoder acts in both modes. In eval mode the encoder
# layer takes a fused kernel that reads linear1.weight instead of calling linear1, and peft answers that attribute with
# the weight of the base layer. torch does leave the kernel when a weight needs gradients, but the base is frozen.
#
# Output seen on 2026-11-29:
#   LoRA on linear1, linear2 - activation relu
#     train          distance to the base model 4.5e-01, to the output in train mode 0.0e+00
#     eval           distance to the base model 1.0e-07, to the output in train mode 4.5e-01
#     eval, no_grad  distance to the base model 1.0e-07, to the output in train mode 4.5e-01
#     eval, merged   distance to the base model 4.5e-01, to the output in train mode 1.2e-07
#   LoRA on linear1, linear2 - activation python_relu
#     train          distance to the base model 4.5e-01, to the output in train mode 0.0e+00
#     eval           distance to the base model 4.5e-01, to the output in train mode 1.1e-07
#     eval, no_grad  distance to the base model 4.5e-01, to the output in train mode 1.1e-07
#     eval, merged   distance to the base model 4.5e-01, to the output in train mode 1.2e-07
#   LoRA on self_attn - activation relu
#     train          distance to the base model 5.4e-01, to the output in train mode 0.0e+00
#     eval           distance to the base model 9.0e-08, to the output in train mode 5.4e-01
#     eval, no_grad  distance to the base model 9.0e-08, to the output in train mode 5.4e-01
#     eval, merged   distance to the base model 5.4e-01, to the output in train mode 1.3e-07
#   LoRA on self_attn - activation python_relu
#     train          distance to the base model 5.4e-01, to the output in train mode 0.0e+00
#     eval           distance to the base model 5.4e-01, to the output in train mode 0.0e+00
#     eval, no_grad  distance to the base model 5.4e-01, to the output in train mode 1.3e-07
#     eval, merged   distance to the base model 5.4e-01, to the output in train mode 1.3e-07
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  peft==0.21.2 torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn


def distance(first, second):
    return ((first - second).norm() / second.norm()).item()


def adapted(targets, activation):
    """Output of the base model, and of the adapted model in train mode, in eval mode and merged."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation=activation, batch_first=True)
    inputs = torch.randn(2, 5, 16)
    base = layer.eval()(inputs).detach()
    # init_lora_weights=False: an adapter that is not zero, as after training
    model = get_peft_model(layer, LoraConfig(target_modules=targets, r=4, init_lora_weights=False))
    outputs = {"train": model.train()(inputs).detach(), "eval": model.eval()(inputs).detach()}
    with torch.no_grad():
        outputs["eval, no_grad"] = model(inputs)
        outputs["eval, merged"] = model.merge_and_unload().eval()(inputs)
    return base, outputs


def python_relu(values):
    return values.relu()


for targets in (["linear1", "linear2"], ["self_attn"]):
    for activation in ("relu", python_relu):
        base, outputs = adapted(targets, activation)
        print("LoRA on", ", ".join(targets), "- activation", getattr(activation, "__name__", activation))
        for title, value in outputs.items():
            far, same = distance(value, base), distance(value, outputs["train"])
            print(f"  {title:14s} distance to the base model {far:.1e}, to the output in train mode {same:.1e}")
            if activation == "relu" and title in ("eval", "eval, no_grad"):
                assert far < 1e-5 and same > 0.1
            else:
                assert far > 0.1 and same < 1e-5
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/check.py"
