"""An image tower as a folder that transformers' ``AutoModel`` and ``AutoImageProcessor`` read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.errors import need
from embedkit.formats.image_part import ImagePart, folded, image_report, refuse
from embedkit.formats.transformers.dual_writer import LIBRARY, PIL_NOTE, vision_parts, write_processor

if TYPE_CHECKING:
    from embedkit.formats.image_part import Affine

PROJECTION = "projection.safetensors"
_POOLED = {
    "pooler": "pooler_output", "cls": "last_hidden_state[:, 0]", "mean": "last_hidden_state[:, {prefix}:].mean(1)",
}  # fmt: skip


def write(part: ImagePart, folder: Path, samples: int = 100) -> dict[str, Any]:
    """How the folder is used, notes, and the certificate of the vectors by ``AutoModel``.

    A tower of transformers is written as it is, a plain ViT of open_clip as a CLIPVisionModelWithProjection, a model of
    timm as a folder of timm, which transformers reads too. Linear layers behind the tower are in
    ``projection.safetensors``, as ``AutoModel`` has no place for them.

    Raises
    ------
    ModelError
        When transformers cannot express the tower, with the reason; or when its vectors differ.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> Path("whole").mkdir()
    >>> report = write(ImagePart(build(load_recipe("simclr", smoke=True).model)), Path("whole"), samples=4)
    >>> report["use"]["vector"], report["readers"]["transformers"]["difference"] < 1e-5
    ('pooler_output @ weight.T of projection.safetensors', True)
    """
    from embedkit.formats.tensors import write_tensors
    from embedkit.models.towers.open_clip import OpenClipTower
    from embedkit.models.towers.timm import TimmTower
    from embedkit.models.towers.transformers import TransformersTower

    tower = part.tower
    pooled, notes = _POOLED["pooler"], [PIL_NOTE]
    if isinstance(tower, TimmTower):
        linear = _write_timm(part, folder)
    elif isinstance(tower, TransformersTower):
        linear = part.linear()
        tower.encoder.save_pretrained(folder, state_dict=part.state())
        notes = write_processor(part.preprocess, folder, "image")
        pooled = _POOLED[tower.pooling].format(prefix=tower.prefix)
    elif isinstance(tower, OpenClipTower):
        linear = _write_clip(part, folder)
        notes = write_processor(part.preprocess, folder, "image")
    else:
        refuse(LIBRARY, f"it has no tower of the family {tower.family}")
    vector = pooled
    if linear is not None:
        tensors = {name: tensor for name, tensor in zip(("weight", "bias"), linear, strict=True) if tensor is not None}
        write_tensors(tensors, folder, PROJECTION)
        vector = f"{pooled} @ weight.T{' + bias' if linear[1] is not None else ''} of {PROJECTION}"
    crop: Any = "round" if isinstance(tower, TimmTower) else "truncate"
    report = image_report(part, LIBRARY, lambda images: read_vectors(folder, images, pooled), samples, crop)
    return {"use": {"vector": vector, "normalize": part.model.normalize}, "notes": notes, "readers": report}


def _write_timm(part: ImagePart, folder: Path) -> Affine | None:
    from embedkit.formats.timm.architecture import architecture_of
    from embedkit.formats.timm.writer import write_files

    need("timm", "clip", "an image tower of timm")
    write_files(part, folder)
    return architecture_of(part).linear


def _write_clip(part: ImagePart, folder: Path) -> Affine | None:
    """A plain ViT of open_clip with all that stands behind it, as one linear layer."""
    from torch import nn
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config, state, projection = vision_parts(part.model)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
    # transformers 5 calls its own vision model by this name with and without a further prefix
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in model.state_dict()) else ""
    tensors = {f"{prefix}{name}": tensor for name, tensor in state.items() if name != "proj"}
    missing = model.load_state_dict({**tensors, "visual_projection.weight": projection}, strict=False)
    if missing.unexpected_keys or [name for name in missing.missing_keys if not name.endswith("position_ids")]:
        refuse(LIBRARY, "its CLIPVisionModel has other weights")
    model.save_pretrained(folder)
    layer = nn.Linear(projection.shape[1], projection.shape[0], bias=False)
    layer.load_state_dict({"weight": projection})
    return folded([layer])


def read_vectors(folder: Path, images: list[Any], pooled: str, size: int = 32) -> np.ndarray:
    """Vectors of images by ``AutoModel``, read at `pooled` (see a report), through the projection of the folder.

    Examples
    --------
    >>> from PIL import Image
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> Path("tower").mkdir()
    >>> _ = write(ImagePart(build(load_recipe("simclr", smoke=True).model)), Path("tower"), samples=2)
    >>> read_vectors(Path("tower"), [Image.new("RGB", (40, 60))], "pooler_output").shape
    (1, 16)
    """
    import torch
    from transformers import AutoImageProcessor, AutoModel

    from embedkit.formats.tensors import quiet, read_safetensors

    with quiet():
        model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eval()
        processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        )  # fmt: skip
    tensors = read_safetensors(folder / PROJECTION) if (folder / PROJECTION).is_file() else {}
    batches = []
    with torch.inference_mode():
        for start in range(0, len(images), size):
            output = model(**processor(images[start : start + size], return_tensors="pt"))
            if pooled == _POOLED["pooler"]:
                vectors = output.pooler_output
            elif pooled == _POOLED["cls"]:
                vectors = output.last_hidden_state[:, 0]
            else:
                prefix = int(pooled.partition("[:, ")[2].partition(":")[0])
                vectors = output.last_hidden_state[:, prefix:].mean(1)
            if tensors:
                vectors = torch.nn.functional.linear(vectors, tensors["weight"], tensors.get("bias"))
            batches.append(vectors)
    return torch.cat(batches).float().numpy()  # type: ignore[no-any-return]
