"""An image tower as a folder of timm, which ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.errors import need
from embedkit.formats.folder import write_json
from embedkit.formats.image_part import ImagePart, image_report, refuse
from embedkit.formats.registry import IMAGE_KINDS, FolderWriter, writers

if TYPE_CHECKING:
    from torch import Tensor

    from embedkit.models.inputs.preprocess import Preprocess

NAME, CONFIG = "timm", "config.json"


def write(part: ImagePart, folder: Path, samples: int = 100) -> dict[str, Any]:
    """How the folder is used, and the certificate of timm's vectors; writes ``config.json`` and the weights.

    The linear layers behind the tower stand where timm has its classifier: the model's output is embedkit's vector, and
    ``num_classes=0`` gives the features before them.

    Raises
    ------
    ModelError
        When timm cannot express the tower, with the reason; or when its vectors differ.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> Path("whole").mkdir()
    >>> report = write(ImagePart(build(load_recipe("simclr", smoke=True).model)), Path("whole"), samples=4)
    >>> report["readers"]["timm"]["difference"] < 1e-5
    True
    """
    need_timm()
    write_files(part, folder)
    use = {
        "model": 'timm.create_model("local-dir:FOLDER", pretrained=True)',
        "transform": "timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "features": "num_classes=0 gives those before the linear layers", "normalize": part.model.normalize,
    }  # fmt: skip
    return {"use": use, "readers": image_report(part, NAME, lambda images: read_vectors(folder, images), samples)}


def write_files(part: ImagePart, folder: Path) -> None:
    """Write ``config.json`` and the weights of a folder of timm.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> Path("files").mkdir()
    >>> write_files(ImagePart(build(load_recipe("simclr", smoke=True).model)), Path("files"))
    >>> sorted(path.name for path in Path("files").iterdir())
    ['config.json', 'model.safetensors']
    """
    from embedkit.formats.tensors import write_tensors
    from embedkit.formats.timm.architecture import architecture_of

    architecture = architecture_of(part)
    module = architecture.module()
    state = {**architecture.state, **_classifier(module, architecture.linear)}
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    odd = sorted(name for name in {*shapes, *state} if name not in state or shapes.get(name) != state[name].shape)
    if odd:
        refuse(NAME, f"its {architecture.name} has other weights ({', '.join(odd[:3])})")
    write_tensors(state, folder)
    cfg = {
        "input_size": [3, *part.tower.size], "fixed_input_size": architecture.size == part.tower.size,
        "num_classes": module.num_classes,
        "first_conv": module.default_cfg.get("first_conv"), "classifier": module.default_cfg.get("classifier"),
        **preprocess_cfg(part.preprocess),
    }  # fmt: skip
    config = {
        "architecture": architecture.name, "num_classes": module.num_classes, "num_features": module.num_features,
        "global_pool": architecture.pool, "pretrained_cfg": cfg, "model_args": architecture.arguments,
    }  # fmt: skip
    write_json(folder / CONFIG, config)


def need_timm() -> None:
    """Refuse when timm is not installed.

    Examples
    --------
    >>> need_timm()
    """
    need("timm", "clip", "a folder of timm")


def _classifier(module: Any, linear: Any) -> dict[str, Tensor]:
    """The linear layers under the names of the classifier; a bias that they have not is zero."""
    import torch

    if linear is None:
        return {}
    place = module.default_cfg["classifier"]
    tensors = {f"{place}.weight": linear[0]}
    if f"{place}.bias" in module.state_dict():
        tensors[f"{place}.bias"] = torch.zeros(len(linear[0])) if linear[1] is None else linear[1]
    elif linear[1] is not None:
        refuse(NAME, "its classifier has no bias")
    if tensors[f"{place}.weight"].dim() != module.state_dict()[f"{place}.weight"].dim():
        tensors[f"{place}.weight"] = linear[0][:, :, None, None]  # a convolution of 1 x 1
    return tensors


def preprocess_cfg(preprocess: Preprocess) -> dict[str, Any]:
    """timm's description of a preprocessing.

    Examples
    --------
    >>> from embedkit.models.inputs.preprocess import Preprocess
    >>> cfg = preprocess_cfg(Preprocess(size=(224, 224), edge=256))
    >>> cfg["crop_pct"], cfg["crop_mode"], cfg["interpolation"]
    (0.875, 'center', 'bicubic')
    """
    if preprocess.resize in ("none", "longest"):
        refuse(NAME, f"it has no resizing {preprocess.resize!r} like this")
    if preprocess.edge is not None and preprocess.resize == "shortest" and len(set(preprocess.size)) > 1:
        refuse(NAME, f"it cannot resize the shorter side to {preprocess.edge} and cut {preprocess.size} out of it")
    if preprocess.interpolation not in ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"):
        refuse(NAME, f"it cannot resize with {preprocess.interpolation!r}")
    high, wide = preprocess.size
    share = 1.0
    if preprocess.resize == "shortest" and preprocess.edge is not None:
        share = min(high, wide) / preprocess.edge
        while math.floor(min(high, wide) / share) < preprocess.edge:  # timm rounds the quotient down
            share = math.nextafter(share, 0.0)
    return {
        "interpolation": preprocess.interpolation, "crop_pct": share,
        "crop_mode": "squash" if preprocess.resize == "squash" else "center", "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }  # fmt: skip


def read_vectors(folder: Path, images: list[Any], size: int = 32) -> np.ndarray:
    """Vectors of images by timm, with the transform that the folder asks for.

    Examples
    --------
    >>> from PIL import Image
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> Path("tower").mkdir()
    >>> _ = write(ImagePart(build(load_recipe("simclr", smoke=True).model)), Path("tower"), samples=2)
    >>> read_vectors(Path("tower"), [Image.new("RGB", (40, 60))]).shape
    (1, 16)
    """
    import timm
    import torch
    from timm.data import create_transform, resolve_model_data_config

    from embedkit.formats.tensors import quiet

    with quiet():
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        batches = [
            model(torch.stack([transform(image) for image in images[start : start + size]]))
            for start in range(0, len(images), size)
        ]
    return torch.cat(batches).float().numpy()  # type: ignore[no-any-return]


writers.add("timm")(FolderWriter(IMAGE_KINDS, write, need_timm))
