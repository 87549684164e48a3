"""Export of a text encoder as one ONNX graph: token ids and mask in, final vector out."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import MissingExtraError, ModelError
from embedkit.formats.tensors import write_tokenizer

if TYPE_CHECKING:
    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs

TOLERANCE = 1e-4
_PROBES = [
    "A man is playing the guitar.",
    "",
    "The committee, which met twice this year, has not yet decided how the money of the fund will be spent.",
    "Two dogs",
]


class PaddedEncoder(nn.Module):
    """A text encoder over a padded batch, with the pooling written out for a mask.

    Parameters
    ----------
    model : TextEncoder
        Its parts are copied; adapters are merged.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("quickstart").model)
    >>> ids, mask = padded(model.prepare(["a red lamp", "the dirty bike"]), model.encoder)
    >>> PaddedEncoder(model)(ids, mask).shape
    torch.Size([2, 64])
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        from embedkit.models.modules.adapters import has_adapters

        if has_adapters(model.encoder):
            raise ModelError("the model has adapters", remedy="save and load it first, which merges them")
        plain = {"cls", "max", "mean", "last-token", "mask", "weighted-mean", "mean-sqrt-len"}
        deep = {"first-last", "embedding-last", "last-two"}
        if not (set(model.pooling.split("+")) <= plain or model.pooling in deep) or not model.pool_prompt:
            what = model.pooling if model.pool_prompt else "leaving the prompt out"
            raise ModelError(f"one graph cannot express the pooling {what}", remedy="save it as an embedkit folder")
        self.encoder = copy.deepcopy(model.encoder)
        self.encoder.set_attn_implementation("eager")
        self.dense = copy.deepcopy(nn.ModuleList(layer for layer in model.layers if not layer.train_only))
        self.pooling, self.normalize = model.pooling, model.normalize
        self.mask_id = int(getattr(model.tokenizer, "mask_token_id", None) or 0)
        self.layers = {"first-last": 1, "embedding-last": 0, "last-two": -2}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(N, L) ids and mask -> (N, D)."""
        deep = self.pooling in self.layers
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=deep)
        hidden = output.last_hidden_state
        if deep:
            hidden = (hidden + output.hidden_states[self.layers[self.pooling]]) / 2
        parts = [self._pool(name, hidden, input_ids, attention_mask) for name in self.pooling.split("+")]
        pooled = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        for layer in self.dense:
            pooled = layer(pooled)
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled

    def _pool(self, name: str, hidden: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        if name == "cls":
            return hidden[:, 0]
        if name == "max":
            return hidden.masked_fill(mask[..., None] == 0, -torch.inf).amax(1)
        if name in ("last-token", "mask"):
            place = mask.sum(1) - 1 if name == "last-token" else (ids - self.mask_id).eq(0).long().argmax(1)
            return hidden.gather(1, place[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]
        weights = mask[..., None].to(hidden.dtype)
        if name == "weighted-mean":
            weights = weights * weights.cumsum(1)
        total = weights.sum(1)
        return (hidden * weights).sum(1) / (total.sqrt() if name == "mean-sqrt-len" else total)


def write(model: Model, folder: Path) -> dict[str, Any]:
    """Inputs, settings and largest difference of ``model.onnx``, written with the tokenizer.

    Raises
    ------
    MissingExtraError
        When onnx, onnxscript or onnxruntime is not installed.
    ModelError
        For a static model, or when the graph's vectors differ by more than `TOLERANCE`.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> write(StaticEncoder(tokenizer(), dim=4), Path("onnx"))
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: a static model has no ONNX export; export to sentence-transformers
    """
    from embedkit.models.modules.text import TextEncoder

    if not isinstance(model, TextEncoder):
        raise ModelError(f"a {model.kind} model has no ONNX export", remedy="export to sentence-transformers")
    if (model.template_bias is not None and model.template_bias.when == "always") or model.soft_prompt is not None:
        what = "; ".join(model.beyond_modules)
        raise ModelError(f"one graph cannot express this model: {what}", remedy="save it as an embedkit folder")
    need_onnx()
    was_training = model.training
    model.eval()
    try:
        graph = PaddedEncoder(model).float().cpu().eval()
        ids, mask = padded(model.prepare(_PROBES), model.encoder)
        with torch.no_grad(), quiet_exporter():
            program = torch.onnx.export(
                graph, (ids, mask), dynamo=True, verbose=False, input_names=["input_ids", "attention_mask"],
                output_names=["sentence_embedding"],
                dynamic_shapes={"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}},
            )  # fmt: skip
        assert program is not None
        program.save(str(folder / "model.onnx"))
        worst = _largest_difference(model, folder / "model.onnx")
    finally:
        model.train(was_training)
    if not worst <= TOLERANCE:
        raise ModelError(f"the ONNX graph differs from the model by {worst:.1e}", remedy="please report this model")
    write_tokenizer(model.tokenizer, folder)
    use = {"max_length": model.max_length, "prompts": model.prompts, "default_prompt": model.default_prompt}
    return {"inputs": ["input_ids", "attention_mask"], "output": "sentence_embedding", "use": use, "difference": worst}


def need_onnx() -> None:
    """Refuse when a package that the export needs is not installed.

    Examples
    --------
    >>> from unittest import mock
    >>> with mock.patch("importlib.util.find_spec", return_value=None):
    ...     need_onnx()
    Traceback (most recent call last):
    ...
    embedkit.errors.MissingExtraError: ONNX export needs the package 'onnx'; pip install "embedkit[onnx]"
    """
    from importlib.util import find_spec

    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "onnx", "ONNX export")


def padded(inputs: Inputs, encoder: Any) -> tuple[Tensor, Tensor]:
    """Ids and mask (N, L) of texts for an encoder of transformers; SigLIP's tokens are all real, for its attention sees
    its padding.

    Examples
    --------
    >>> from transformers import BertConfig
    >>> from types import SimpleNamespace
    >>> from embedkit.models import Inputs
    >>> ids, mask = padded(Inputs.of([[2, 7, 3], [2, 3]]), SimpleNamespace(config=BertConfig(pad_token_id=0)))
    >>> ids.tolist(), mask.tolist()
    ([[2, 7, 3], [2, 3, 0]], [[1, 1, 1], [1, 1, 0]])
    """
    rows = inputs.rows()
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), getattr(encoder.config, "pad_token_id", None) or 0)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return ids, mask


def _largest_difference(model: Any, path: Path) -> float:
    """Largest difference of a coordinate over probes of several batch sizes and lengths."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for texts in (_PROBES, _PROBES[:1], [*_PROBES, " ".join(_PROBES * 3)]):
        ids, mask = padded(model.prepare(texts), model.encoder)
        (vectors,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        worst = max(worst, float(np.abs(vectors - model.encode(texts, normalize=model.normalize)).max()))
    return worst


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """A block without the exporter's progress lines.

    Examples
    --------
    >>> with quiet_exporter():
    ...     logging.getLogger("torch.onnx").isEnabledFor(logging.WARNING)
    False
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
