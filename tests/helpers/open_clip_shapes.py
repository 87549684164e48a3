"""open_clip's configurations shrunk to tiny widths, and folders of them with random weights, written by open_clip."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.helpers import dual, tiny

_TIMM = {"convnext": "test_convnext", "vit": "test_vit", "eva": "test_vit", "beit": "test_vit"}
TEXTS = dual.CAPTIONS


# arguments that make timm's own architectures small, by the beginning of their names
_SMALL: dict[str, dict[str, Any]] = {
    "vit_base_mci": {"depth": 1},  # its convolutions in front fix the width
    "convnext": {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64)},
    "fastvit": {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 64)},
    "swin": {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
    **{start: {"embed_dim": 64, "depth": 2, "num_heads": 4} for start in ("vit_", "eva", "deit", "beit")},
}  # fmt: skip


@contextlib.contextmanager
def small_trunks() -> Iterator[None]:
    """A block in which timm makes its architectures with small widths and few layers, for whoever asks."""
    import timm

    whole = timm.create_model

    def small(name: str, *arguments: Any, **settings: Any) -> Any:
        kind = name
        if name.startswith("local-dir:"):
            config = Path(name.removeprefix("local-dir:")) / "config.json"
            kind = json.loads(config.read_text())["architecture"]
        sizes = next((own for start, own in _SMALL.items() if kind.startswith(start)), {})
        return whole(name, *arguments, **settings, **sizes)

    timm.create_model = small
    try:
        yield
    finally:
        timm.create_model = whole


def shrunk(name: str, folder: Path, own_trunk: bool = False) -> dict[str, Any]:
    """open_clip's configuration `name` with its own settings but for sizes; a text model of the hub is a tiny one in
    `folder`. A model of timm is a test model of its family, or itself with `own_trunk`, within `small_trunks`."""
    import open_clip

    config = copy.deepcopy(open_clip.get_model_config(name))
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] = 16
    if own_trunk and str(vision.get("timm_model_name")).startswith(tuple(_SMALL)):
        vision |= {"timm_model_pretrained": False}
        if vision.get("timm_proj") == "none":
            config["embed_dim"] = 64
    elif vision.get("timm_model_name"):
        kind = next((small for start, small in _TIMM.items() if vision["timm_model_name"].startswith(start)), None)
        vision |= {"timm_model_name": kind or "test_efficientnet", "timm_model_pretrained": False, "image_size": 160}
        if kind is None and vision.get("timm_pool") not in ("avg", ""):
            vision["timm_pool"] = "avg"
        if vision.get("timm_proj") in (None, "", "none"):  # there the width decides the vector's size
            config["embed_dim"] = {"test_vit": 64, "test_convnext": 128}.get(kind or "", 256)
            if vision.get("timm_proj") is None and not vision.get("timm_pool"):
                vision["timm_proj"] = "linear"
    elif isinstance(vision["layers"], list):
        vision |= {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}
    else:
        patch = 8
        vision |= {"layers": 2, "width": 16, "head_width": 8, "patch_size": patch, "image_size": 4 * patch}
        if "mlp_ratio" in vision:
            vision["mlp_ratio"] = 2.5
        if "attn_pooler_heads" in vision:
            vision["attn_pooler_heads"] = 2
    _shrink_text(text, folder, config["embed_dim"])
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {
            "width": 16,
            "layers": 1,
            "heads": 2,
            "vocab_size": text.get("vocab_size", len(tiny.tokenizer())),
        }
        config["multimodal_cfg"]["dim_head"] = 8
    return config


def _shrink_text(text: dict[str, Any], folder: Path, dim: int) -> None:
    if text.get("hf_model_name"):
        family = next((kind for kind in ("mt5", "xlm-roberta", "nllb") if kind in text["hf_model_name"]), "roberta")
        inner = folder / "text-model"
        (_nllb() if family == "nllb" else tiny.config(family)).save_pretrained(inner)
        text |= {"hf_model_name": str(inner), "hf_tokenizer_name": str(folder), "hf_model_pretrained": False}
        return
    width = dim if text.get("proj_type") == "none" else 16
    text |= {"width": width, "heads": 2, "layers": 2}
    if "mlp_ratio" in text:
        text["mlp_ratio"] = 2.5
    if text.get("hf_tokenizer_name"):
        text |= {"hf_tokenizer_name": str(folder), "vocab_size": len(tiny.tokenizer())}
        if text.get("pool_type") == "eos":
            text["eos_id"] = 3
    elif text.get("vocab_size", 49408) != 49408:
        text["vocab_size"] = 49408


def _nllb() -> Any:
    """A tiny NLLB; open_clip takes its encoder."""
    from transformers import M2M100Config

    layers = {f"{part}_{key}": value for part in ("encoder", "decoder")
              for key, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))}  # fmt: skip
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    return M2M100Config(
        vocab_size=len(tiny.tokenizer()), d_model=32, max_position_embeddings=128, encoder_layerdrop=0.0,
        decoder_layerdrop=0.0, **layers, **ids,
    )  # fmt: skip


def write(name: str, folder: Path, own_trunk: bool = False) -> Any:
    """open_clip's random model of a shrunk configuration, written as a folder as open_clip does it."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP
    from safetensors.torch import save_model

    folder.mkdir(parents=True)
    tiny.tokenizer().save_pretrained(folder)
    config = shrunk(name, folder, own_trunk)
    settings = {key: value for key, value in config.items() if key != "custom_text"}
    make = CoCa if "multimodal_cfg" in config else CustomTextCLIP if _is_custom(config) else CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(**copy.deepcopy(settings)).eval()
        _spread(model)
    size = config["vision_cfg"]["image_size"]
    saved = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "size": size}}
    (folder / "open_clip_config.json").write_text(json.dumps(saved))
    save_model(model, str(folder / "open_clip_model.safetensors"))
    return model


def _is_custom(config: dict[str, Any]) -> bool:
    return bool(config.get("custom_text") or config["text_cfg"].get("hf_model_name"))


def _spread(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "visual" not in name:
                parameter.normal_(std=0.2)


def vectors(model: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of `TEXTS` and of pictures by open_clip's model."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    saved = json.loads((folder / "open_clip_config.json").read_text())
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    transform = image_transform_v2(PreprocessCfg(**saved["preprocess_cfg"]), is_train=False)
    with torch.inference_mode():
        text = model.encode_text(tokenizer(TEXTS), normalize=True)
        image = model.encode_image(torch.stack([transform(i) for i in dual.images(3)]), normalize=True)
    return text.numpy(), image.numpy()
