"""Tiny random folders of transformers' vision models and dual encoders, and what transformers reads from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.helpers import dual, tiny

_SHAPE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
_IMAGE = {**_SHAPE, "image_size": 32, "patch_size": 8}
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "image_size": 64}
# vision models: class of the model, arguments of its configuration
TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViT", _IMAGE), "DeiT": ("DeiT", _IMAGE), "DINOv2": ("Dinov2", _IMAGE),
    "DINOv2 with registers": ("Dinov2WithRegisters", {**_IMAGE, "num_register_tokens": 3}),
    "DINOv3": ("DINOv3ViT", {**_IMAGE, "num_register_tokens": 3}), "ConvNeXt": ("ConvNext", _STAGES),
    "ConvNeXt V2": ("ConvNextV2", _STAGES), "ViT-MSN": ("ViTMSN", _IMAGE), "IJEPA": ("IJepa", _IMAGE),
}  # fmt: skip
# dual encoders: prefix of the classes, arguments of the two configurations, processor of images
DUALS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "CLIP": ("CLIP", {"max_position_embeddings": 77}, _IMAGE, "CLIPImageProcessor"),
    "MetaCLIP 2": ("MetaClip2", {"max_position_embeddings": 77}, _IMAGE, "CLIPImageProcessor"),
    "SigLIP": ("Siglip", {"max_position_embeddings": 24}, _IMAGE, "SiglipImageProcessor"),
    "SigLIP 2": ("Siglip", {"max_position_embeddings": 24, "hidden_act": "gelu_pytorch_tanh"}, _IMAGE,
                 "SiglipImageProcessor"),
    "SigLIP 2 NaFlex": ("Siglip2", {"max_position_embeddings": 24}, {**_SHAPE, "patch_size": 8, "num_patches": 16},
                        "Siglip2ImageProcessor"),
}  # fmt: skip


def write_tower(name: str, folder: Path) -> Any:
    """A random vision model, saved with an image processor by transformers itself."""
    import transformers

    kind, shape = TOWERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**shape)).eval()
        _spread(model)
    model.save_pretrained(folder)
    side = model.config.image_size
    transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side).save_pretrained(folder)
    return model


def write_dual(name: str, folder: Path) -> Any:
    """A random dual encoder with tokenizer and image processor, saved by transformers itself."""
    import transformers

    kind, text, image, processor = DUALS[name]
    words = tiny.tokenizer()
    ids = {"vocab_size": len(words), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    make: Any = getattr(transformers, f"{kind}Config")
    config = make(text_config={**_SHAPE, **ids, **text}, vision_config=image)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}Model")(config).eval()
        _spread(model)
    model.save_pretrained(folder)
    words.model_max_length = text["max_position_embeddings"]
    words.save_pretrained(folder)
    side = {"size": {"height": 32, "width": 32}}
    settings = {
        "CLIPImageProcessor": {"size": {"shortest_edge": 32}, "crop_size": 32}, "SiglipImageProcessor": side,
        "Siglip2ImageProcessor": {"patch_size": 8, "max_num_patches": 16},
    }[processor]  # fmt: skip
    getattr(transformers, processor)(**settings).save_pretrained(folder)
    return model


def _spread(model: Any) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)


def pictures(name: str, count: int = 4) -> list[Any]:
    """Pictures of many shapes."""
    return dual.images(count)


def tower_vectors(model: Any, folder: Path, images: list[Any]) -> dict[str, np.ndarray]:
    """Vectors by transformers: at the class token, of the mean of the patches, and of the model's own pooler."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    with torch.inference_mode():
        output = model(**processor(images, return_tensors="pt"))
    hidden = output.last_hidden_state
    if hidden.dim() == 4:
        return {"pooler": output.pooler_output.numpy(), "mean": hidden.mean((2, 3)).numpy()}
    prefix = hidden.shape[1] - 16
    found = {"mean": hidden[:, prefix:].mean(1).numpy()}
    return {**found, "cls": hidden[:, 0].numpy()} if prefix else found


def dual_vectors(model: Any, folder: Path, texts: list[str], images: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of texts and images by transformers, not normalised; SigLIP's texts padded to their full length."""
    from transformers import AutoImageProcessor, AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    length = model.config.text_config.max_position_embeddings
    padded = model.config.model_type.startswith("siglip")
    with torch.inference_mode():
        tokens = words(texts, padding="max_length" if padded else True, truncation=True, max_length=length,
                       return_tensors="pt")  # fmt: skip
        given = {"input_ids": tokens.input_ids} if padded else dict(tokens)
        given.pop("token_type_ids", None)
        text = model.get_text_features(**given).pooler_output
        image = model.get_image_features(**processor(images, return_tensors="pt")).pooler_output
    return text.numpy(), image.numpy()
