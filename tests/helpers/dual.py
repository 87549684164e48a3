"""Tiny random dual encoders of every family of towers, pictures of odd shapes, captions that are easy to get wrong."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from embedkit.models.inputs.preprocess import Preprocess
from embedkit.models.modules.clip_text import ClipTextEncoder, clip_tokenizer
from embedkit.models.modules.dual import DualEncoder, Projection
from embedkit.models.modules.image_towers import ImageTower, build_image_tower
from tests.helpers import tiny

DIM = 16
_HF = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8}
# image tower of each family: the spec that `build_image_tower` takes
IMAGES: dict[str, dict[str, Any]] = {
    "open_clip-vit": {"family": "open_clip", "dim": DIM, "config": VIT},
    "open_clip-resnet": {
        "family": "open_clip", "dim": DIM, "config": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
    },
    "timm-vit": {
        "family": "open_clip", "dim": DIM,
        "config": {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear", "image_size": 160},
    },
    "timm-convnext": {
        "family": "open_clip", "dim": DIM,
        "config": {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
    },
    "vit": {"family": "transformers", "config": {"model_type": "vit", **_HF}},
    "clip": {"family": "transformers", "config": {"model_type": "clip_vision_model", "hidden_act": "gelu", **_HF}},
    "siglip": {"family": "transformers", "config": {"model_type": "siglip_vision_model", **_HF}},
    "dinov2": {"family": "transformers", "config": {"model_type": "dinov2", **_HF}},
    "dinov2-registers": {
        "family": "transformers", "config": {"model_type": "dinov2_with_registers", "num_register_tokens": 3, **_HF},
    },
}  # fmt: skip
NAFLEX = {"family": "transformers", "config": {"model_type": "siglip2_vision_model", "num_patches": 16, **_HF}}
TEXTS = ("bert", "roberta", "modernbert", "t5", "mpnet", "simcse", "promptbert", "static", "clip", "siglip")
CAPTIONS = [
    "a photo of a cat", "", "the “small” dog’s ball", "salt &amp; pepper", "many words " * 70, "UPPER  case\tTEXT",
    "3.5 apples, 1,200 pears!", "a_b c-d", "two children are running in the green park", "ﬁsh &lt;3",
    "a photo of a cat",
]  # fmt: skip


@lru_cache(maxsize=1)
def bpe() -> Any:
    """CLIP's tokenizer, made once."""
    return clip_tokenizer()


def images(count: int = 6) -> list[Any]:
    """Noisy pictures whose resized sides leave even and odd margins to both sides."""
    shapes = [(47, 61), (64, 64), (90, 33), (51, 102), (35, 36), (128, 67), (40, 77), (99, 100)]
    return [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (*shapes[i % len(shapes)], 3), dtype=np.uint8))
        for i in range(count)
    ]


def spread(module: torch.nn.Module) -> None:
    """Larger weights than a start's, so that every part shows in the vectors."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)


def image_tower(family: str, seed: int = 0) -> ImageTower:
    """A random image tower in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = build_image_tower(NAFLEX if family == "naflex" else IMAGES[family])
        if not family.startswith("timm") and family != "open_clip-resnet":
            spread(tower)
    return tower.eval()


def text_tower(family: str, seed: int = 0, **settings: Any) -> Any:
    """A random text tower in evaluation mode, over the tiny vocabulary but for CLIP with `settings` ``clip=True``."""
    from transformers import AutoConfig

    from embedkit.formats.transformers.encoder import new_encoder
    from embedkit.models.modules.static import StaticEncoder
    from embedkit.models.modules.text import Dense

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "static":
            return StaticEncoder(tiny.tokenizer(), 24)
        if family == "simcse":
            return tiny.text_encoder("bert", pooling="cls", dense=[Dense(32, 32)], **settings)
        if family == "promptbert":
            prompts = {"prompt": "the sentence {} means [MASK] ."}
            return tiny.text_encoder("bert", pooling="mask", prompts=prompts, default_prompt="prompt", **settings)
        if family not in ("clip", "siglip"):
            return tiny.text_encoder(family, **settings)
        own = settings.pop("clip", False)
        words = bpe() if own else tiny.tokenizer()
        length = 77 if own else 24
        shape = AutoConfig.for_model(
            f"{family}_text_model", vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=length, projection_size=32, pad_token_id=0,
            bos_token_id=len(words) - 2 if own else 2, eos_token_id=len(words) - 1 if own else 3,
            hidden_act=settings.pop("act", "gelu"),
        )  # fmt: skip
        encoder = new_encoder(shape)
        spread(encoder)
        return ClipTextEncoder(encoder, words, max_length=length, **settings).eval()


def dual(text: str = "clip", image: str = "open_clip-vit", seed: int = 0, **settings: Any) -> DualEncoder:
    """A random dual encoder in evaluation mode; `settings` go to the text tower."""
    words, pictures = text_tower(text, seed, **settings), image_tower(image, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        dim = 32 if text == image == "siglip" else DIM  # its own towers have no projection behind them
        parts = [
            Projection(
                "none" if part.dim == dim and (part is pictures or text == "siglip") else "linear", part.dim, dim
            )
            for part in (words, pictures)
        ]
    return DualEncoder(words, pictures, *parts, Preprocess(size=pictures.size)).eval()
