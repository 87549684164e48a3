"""The image tower of a dual encoder with its projection as one ONNX graph, compared with the model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.formats.image_part import ImagePart, image_report
from embedkit.formats.onnx.text_graph import need_onnx, quiet_exporter
from embedkit.models.inputs.images import ImageInputs, pixels_of
from embedkit.models.towers.naflex import NaflexTower

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder

IMAGE_FILE = "image.onnx"


class ImageGraph(nn.Module):
    """The image tower with its projection: normalised pixels (N, 3, H, W) -> (N, D).

    Parameters
    ----------
    model : DualEncoder
        Its parts are copied.
    normalize : bool
        Unit vectors.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("simclr", smoke=True).model)
    >>> ImageGraph(model, normalize=True).eval()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 16])
    """

    def __init__(self, model: DualEncoder, normalize: bool) -> None:
        super().__init__()
        from embedkit.models.modules.adapters import has_adapters

        if has_adapters(model.image.encoder):
            raise ModelError("the model has adapters", remedy="save and load it first, which merges them")
        if isinstance(model.image, NaflexTower) or model.preprocess.patch is not None:
            raise ModelError("a graph takes images of one shape, this tower each in its own",
                             remedy="save it as an embedkit folder")  # fmt: skip
        self.tower = copy.deepcopy(model.image)
        self.projection = copy.deepcopy(model.projection("image"))
        self.normalize = normalize

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D)."""
        vectors = self.projection(self.tower(pixel_values))
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


def write(part: ImagePart, folder: Path, samples: int = 100) -> dict[str, Any]:
    """Input, settings and certificate of ``image.onnx``, whose vectors are those of the model's ``encode``.

    Raises
    ------
    MissingExtraError
        When onnx, onnxscript or onnxruntime is not installed.
    ModelError
        When the graph's vectors differ.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> settings = {"model.towers.image.lora": {"rank": 2}}
    >>> model = build(load_recipe("simclr", settings, smoke=True).model)
    >>> write(ImagePart(model), Path())
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: the model has adapters; save and load it first, which merges them
    """
    need_onnx()
    model = part.model
    was_training = model.training
    model.eval()
    try:
        export_graph(model, folder / IMAGE_FILE, normalize=False)
        report = image_report(
            part, "onnxruntime", lambda images: read_vectors(model, folder / IMAGE_FILE, images), samples,
            part.preprocess.crop,
        )  # fmt: skip
    finally:
        model.train(was_training)
    use = {"preprocess": model.preprocess.to_json(), "normalize": model.normalize}
    return {"inputs": {"image": ["pixel_values"]}, "output": "image_embedding", "use": use, "readers": report}


def export_graph(model: DualEncoder, path: Path, normalize: bool | None = None) -> None:
    """Write the graph from normalised ``pixel_values`` (N, 3, H, W) to ``image_embedding`` (N, D).

    `normalize` says whether to unit length; as the model does it when None.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> settings = {"model.towers.image.lora": {"rank": 2}}
    >>> model = build(load_recipe("simclr", settings, smoke=True).model)
    >>> export_graph(model, Path("image.onnx"))
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: the model has adapters; save and load it first, which merges them
    """
    batch = torch.export.Dim("batch", min=1, max=4096)
    graph = ImageGraph(model, model.normalize if normalize is None else normalize).float().cpu().eval()
    with torch.no_grad(), quiet_exporter():
        image = torch.onnx.export(
            graph, (torch.zeros(2, 3, *model.image.size),), dynamo=True, verbose=False, input_names=["pixel_values"],
            output_names=["image_embedding"], dynamic_shapes={"pixel_values": {0: batch}},
        )  # fmt: skip
    assert image is not None
    image.save(str(path))


def read_vectors(model: DualEncoder, path: Path, images: list[Any], size: int = 32) -> np.ndarray:
    """Vectors of images by onnxruntime from a graph, with the preprocessing of the model; see `export_graph`.

    Examples
    --------
    >>> import onnx
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> mean = '''<ir_version: 8, opset_import: ["" : 17]>
    ... g (float[n,3,h,w] pixel_values) => (float[n,3,1,1] vectors) {vectors = GlobalAveragePool(pixel_values)}'''
    >>> onnx.save(onnx.parser.parse_model(mean), "mean.onnx")
    >>> model = build(load_recipe("simclr", smoke=True).model)
    >>> read_vectors(model, Path("mean.onnx"), [np.zeros((40, 60, 3), dtype=np.uint8)]).shape
    (1, 3, 1, 1)
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    vectors: list[np.ndarray] = []
    for start in range(0, len(images), size):
        inputs = ImageInputs(pixels_of(images[start : start + size], model.preprocess)).to(model.device)
        vectors.append(session.run(None, {"pixel_values": model.pixels(inputs).float().cpu().numpy()})[0])
    return np.concatenate(vectors)
