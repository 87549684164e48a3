"""Both towers of a dual encoder as ONNX graphs, compared with the model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.formats.onnx.image_graph import IMAGE_FILE, export_graph, read_vectors
from embedkit.formats.onnx.text_graph import PaddedEncoder, need_onnx, padded, quiet_exporter
from embedkit.formats.parity import BOUND, compare, probe_images, probe_texts
from embedkit.formats.tensors import write_tokenizer

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder


class _TextGraph(nn.Module):
    """The text tower with its projection over a padded batch: (N, L) ids and mask -> (N, D)."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.tower = PaddedEncoder(model.text)
        self.tower.normalize = False
        self.head = self.tower.encoder.head if model.text.fixed_length else nn.Identity()
        self.projection = copy.deepcopy(model.projection("text"))
        self.normalize = model.normalize

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(N, L) -> (N, D)."""
        vectors = self.projection(self.head(self.tower(input_ids, attention_mask)))
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


def write(model: DualEncoder, folder: Path, samples: int = 100) -> dict[str, Any]:
    """Inputs, settings and parity report of ``text.onnx`` and ``image.onnx``, written with the tokenizer.

    Raises
    ------
    MissingExtraError
        When onnx, onnxscript or onnxruntime is not installed.
    ModelError
        For a text tower without an ONNX form, and when a graph's vectors differ.

    Examples
    --------
    >>> from embedkit.config.model import ModelConfig
    >>> from embedkit.factory import build
    >>> text = {"kind": "static", "dim": 8, "tokenizer": "builtin"}
    >>> model = build(ModelConfig(kind="dual", towers={"dim": 8, "text": text, "image": {"size": "vit-nano-32"}}))
    >>> write(model, Path("onnx"))
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: a static text tower has no ONNX export; save it as an embedkit folder
    """
    from embedkit.models.modules.text import TextEncoder

    if not isinstance(model.text, TextEncoder):
        raise ModelError(f"a {model.text.kind} text tower has no ONNX export", remedy="save it as an embedkit folder")
    need_onnx()
    was_training = model.training
    model.eval()
    try:
        _export(model, folder)
        agreement = _parity_report(model, folder, samples)
    finally:
        model.train(was_training)
    write_tokenizer(model.text.tokenizer, folder)
    use = {
        "max_length": model.max_length, "cleaning": model.text.cleaning, "prompts": model.prompts,
        "preprocess": model.preprocess.to_json(), "scale": model.scale, "bias": model.bias,
    }  # fmt: skip
    return {"inputs": {"text": ["input_ids", "attention_mask"], "image": ["pixel_values"]}, "use": use,
            "readers": agreement}  # fmt: skip


def _export(model: DualEncoder, folder: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=4096)
    ids, mask = padded(model.text.prepare(probe_texts(12)), model.text.encoder)
    free: dict[int, Any] = {0: batch} if model.text.fixed_length else {0: batch, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), quiet_exporter():
        text = torch.onnx.export(
            _TextGraph(model).float().cpu().eval(), (ids, mask), dynamo=True, verbose=False,
            input_names=["input_ids", "attention_mask"], output_names=["text_embedding"],
            dynamic_shapes={"input_ids": free, "attention_mask": free},
        )  # fmt: skip
    assert text is not None
    text.save(str(folder / "text.onnx"))
    export_graph(model, folder / IMAGE_FILE)


def _parity_report(model: DualEncoder, folder: Path, samples: int) -> dict[str, Any]:
    import onnxruntime

    texts, images = probe_texts(samples), probe_images(samples)
    session = onnxruntime.InferenceSession(str(folder / "text.onnx"), providers=["CPUExecutionProvider"])
    vectors: list[np.ndarray] = []
    for start in range(0, samples, 32):
        ids, mask = padded(model.text.prepare(texts[start : start + 32], prompt=""), model.text.encoder)
        vectors.append(session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0])
    agreement = compare(
        (model.encode(texts, prompt="", normalize=True), model.encode(images, normalize=True)),
        (np.concatenate(vectors), read_vectors(model, folder / IMAGE_FILE, images)),
    )
    worst = min(agreement["cosine_texts"], agreement["cosine_images"])
    if not worst >= BOUND or agreement["same_top1"] < 1.0:
        raise ModelError(f"the ONNX graphs give other vectors (smallest cosine {worst:.6f})", remedy="please report it")
    return {"samples": samples, "onnxruntime": agreement}
