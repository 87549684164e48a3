"""Encoders of vectors and of sequences, and an encoder with its adapter, as one ONNX graph."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.formats.onnx.text_graph import TOLERANCE, PaddedEncoder, need_onnx, padded, quiet_exporter
from embedkit.formats.tensors import write_tokenizer
from embedkit.models.combined.chain import EncoderChain
from embedkit.models.inputs.vectors import VectorInputs
from embedkit.models.modules.text import TextEncoder
from embedkit.models.vectors.feature import FeatureEncoder
from embedkit.models.vectors.sequence import SequenceEncoder
from embedkit.models.vectors.steps import Block, Convolution, positions

if TYPE_CHECKING:
    from embedkit.models.base import Model

KINDS = frozenset({"feature", "sequence", "chain"})
_TEXTS = ["A man is playing the guitar.", "", "The committee has not yet decided how the money will be spent.", "Two"]
_NAMES = {"feature": ["features"], "sequence": ["features", "mask"], "text": ["input_ids", "attention_mask"]}


class PaddedSequence(nn.Module):
    """A sequence encoder over a padded batch: features (N, T, W) and a mask (N, T) of its steps -> (N, D).

    Parameters
    ----------
    model : SequenceEncoder
        Its parts are copied.

    Raises
    ------
    ModelError
        Of the form "gru", whose loop over the steps a graph for any number of them does not hold.

    Examples
    --------
    >>> model = SequenceEncoder(width=2, dim=4, hidden=8).eval()
    >>> steps = np.ones((3, 2), np.float32)
    >>> out = PaddedSequence(model)(torch.ones(1, 5, 2), torch.tensor([[1, 1, 1, 0, 0]]))
    >>> bool(np.allclose(out.detach().numpy()[0], model.encode(steps, normalize=False), atol=1e-5))
    True
    """

    def __init__(self, model: SequenceEncoder) -> None:
        super().__init__()
        if model.form == "gru":
            raise ModelError("a graph for any number of steps does not hold the loop of a gru", where="model.sequence",
                             remedy="use another form, or save it as an embedkit folder")  # fmt: skip
        self.model = copy.deepcopy(model)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """(N, T, W) and (N, T) -> (N, D)."""
        model = self.model
        there = mask[:, :, None].to(features.dtype)
        x = (features - model.mean) / model.deviation * there
        if model.patch > 1:
            count = (x.shape[1] + model.patch - 1) // model.patch
            x = nn.functional.pad(x, (0, 0, 0, model.patch - 1))[:, : count * model.patch]
            x = x.reshape(x.shape[0], count, model.patch * model.width)
            there = there[:, :: model.patch]
        x = model.first(x)
        if model.form == "transformer":
            x = x + positions(torch.arange(x.shape[1], device=x.device), model.hidden).to(x)
        for layer in model.layers:
            x = _block(layer, x, there) if isinstance(layer, Block) else _convolution(layer, x, there)
        x = model.norm(x)
        weights = there / there.sum(1, keepdim=True)
        if model.query is not None:
            scores = (x @ model.query) * model.hidden**-0.5
            weights = scores.masked_fill(there[:, :, 0] == 0, -torch.inf).softmax(1)[:, :, None]
        return model.last((weights * x).sum(1))  # type: ignore[no-any-return]


def _convolution(layer: Any, x: Tensor, there: Tensor) -> Tensor:
    assert isinstance(layer, Convolution)
    steps, before = x.shape[1], layer.size // 2
    inner = nn.functional.gelu(layer.norm(x)) * there
    ends = (0, 0, before * layer.dilation, (layer.size - 1 - before) * layer.dilation)
    inner = nn.functional.pad(inner, ends)
    places = (place * layer.dilation for place in range(layer.size))
    return x + layer.linear(torch.cat([inner[:, first : first + steps] for first in places], dim=-1))  # type: ignore[no-any-return]


def _block(layer: Block, x: Tensor, there: Tensor) -> Tensor:
    rows, steps, width = x.shape
    whole = layer.inputs(layer.first(x)).view(rows, steps, 3, layer.heads, width // layer.heads)
    query, key, value = whole.permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) * (width // layer.heads) ** -0.5
    scores = scores.masked_fill(there[:, None, None, :, 0] == 0, -torch.inf)
    x = x + layer.outputs((scores.softmax(-1) @ value).transpose(1, 2).reshape(rows, steps, width))
    return x + layer.layers(layer.second(x))  # type: ignore[no-any-return]


class VectorGraph(nn.Module):
    """An encoder, and the adapter of its vectors where it has one, for inputs of fixed names.

    Parameters
    ----------
    model : FeatureEncoder, SequenceEncoder or EncoderChain
        Its parts are copied.

    Raises
    ------
    ModelError
        A part that no graph expresses.

    Examples
    --------
    >>> model = FeatureEncoder(width=3, dim=2)
    >>> VectorGraph(model).eval()(torch.tensor([[3.0, 4.0, 1.0]]))
    tensor([[0.6000, 0.8000]], grad_fn=<DivBackward0>)
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        chain = model if isinstance(model, EncoderChain) else None
        encoder = model if chain is None else chain.encoder
        self.head = None if chain is None else copy.deepcopy(chain.head)
        self.unit, self.normalize = chain is not None and chain.unit, model.normalize
        self.body: nn.Module
        if isinstance(encoder, FeatureEncoder):
            self.body, self.input = copy.deepcopy(encoder), "feature"
        elif isinstance(encoder, SequenceEncoder):
            self.body, self.input = PaddedSequence(encoder), "sequence"
        elif isinstance(encoder, TextEncoder):
            self.body, self.input = PaddedEncoder(encoder), "text"
            self.body.normalize = False
        else:
            raise ModelError(f"the encoder of the chain is a {encoder.kind} model, which has no ONNX graph here",
                             remedy="save it as an embedkit folder")  # fmt: skip

    def forward(self, *inputs: Tensor) -> Tensor:
        """The inputs by their names -> (N, D)."""
        vectors = self.body(VectorInputs(inputs[0])) if self.input == "feature" else self.body(*inputs)
        if self.head is not None:
            vectors = nn.functional.normalize(vectors, dim=-1) if self.unit else vectors
            vectors = self.head(VectorInputs(vectors))
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


def write(model: Model, folder: Path) -> dict[str, Any]:
    """Inputs, settings and largest difference of ``model.onnx``, over probes of several sizes.

    Raises
    ------
    MissingExtraError
        When onnx, onnxscript or onnxruntime is not installed.
    ModelError
        A part that no graph expresses, or the graph's vectors differ by more than `TOLERANCE`.

    Examples
    --------
    >>> write(SequenceEncoder(width=2, form="gru"), Path("onnx"))
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: model.sequence: a graph for any number of steps does not hold the loop of a gru; ...
    """
    need_onnx()
    was_training = model.training
    model.eval()
    try:
        graph = VectorGraph(model).float().cpu().eval()
        names = _NAMES[graph.input]
        axes = {0: torch.export.Dim("batch", min=1)} | ({} if len(names) == 1 else {1: torch.export.Dim.DYNAMIC})
        with torch.no_grad(), quiet_exporter():
            program = torch.onnx.export(
                graph, tuple(map(torch.from_numpy, _arrays(model, graph.input, _probes(model, graph.input)))),
                dynamo=True, verbose=False, input_names=names, output_names=["sentence_embedding"],
                dynamic_shapes=((axes,) * len(names),),
            )  # fmt: skip
        assert program is not None
        program.save(str(folder / "model.onnx"))
        worst = _largest_difference(model, graph.input, folder / "model.onnx")
    finally:
        model.train(was_training)
    if not worst <= TOLERANCE:
        raise ModelError(f"the ONNX graph differs from the model by {worst:.1e}", remedy="please report this model")
    use: dict[str, Any] = {"normalize": model.normalize}
    if graph.input == "text":
        write_tokenizer(model.tokenizer, folder)
        use |= {"max_length": model.max_length, "prompts": model.prompts, "default_prompt": model.default_prompt}
    return {"inputs": names, "output": "sentence_embedding", "use": use, "difference": worst}


def _probes(model: Model, kind: str, lengths: tuple[int, ...] = (5, 9, 2, 13)) -> list[Any]:
    """Inputs of `kind`, of several lengths."""
    if kind == "text":
        return _TEXTS
    random = np.random.default_rng(0)
    width = model.input_width or 0
    if kind == "feature":
        return list(random.standard_normal((4, width), np.float32))
    return [random.standard_normal((length, width), np.float32) for length in lengths]


def _arrays(model: Any, kind: str, items: list[Any]) -> list[np.ndarray]:
    """The inputs of the graph."""
    if kind == "feature":
        return [np.stack(items)]
    if kind == "text":
        encoder = model.encoder
        return [tensor.numpy() for tensor in padded(encoder.prepare(items), encoder.encoder)]
    longest = max(map(len, items))
    features = np.zeros((len(items), longest, items[0].shape[1]), np.float32)
    mask = np.zeros((len(items), longest), np.int64)
    for row, steps in enumerate(items):
        features[row, : len(steps)], mask[row, : len(steps)] = steps, 1
    return [features, mask]


def _largest_difference(model: Model, kind: str, path: Path) -> float:
    """Largest difference of a coordinate over probes of several batch sizes and lengths."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names, worst = _NAMES[kind], 0.0
    probes = _probes(model, kind)
    for items in (probes, probes[:1], [*probes, *_probes(model, kind, (40, 1))]):
        (vectors,) = session.run(None, dict(zip(names, _arrays(model, kind, items), strict=True)))
        worst = max(worst, float(np.abs(vectors - model.encode(items, normalize=model.normalize)).max()))
    return worst
