"""A model that computes in another type: fp32, bf16, fp16 or int8, weights shared where they can be.

``auto`` is measured: each type that this machine has instructions for encodes the same tokens of the model's own
vocabulary in turn, and the fastest is taken, int8 where it is faster by a tenth. The outcome is kept in
``~/.cache/embedkit`` for this machine and shape of model. Nothing here changes the model that it is made from.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import random
import time
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from embedkit.errors import DiskError, UserError, nearest
from embedkit.models.execution.int8 import InputRecord, Int8Layers, linear_layers
from embedkit.models.execution.rebuild import rebuilt
from embedkit.system.cpu import cpu_has_bf16, cpu_has_int8, cpu_name
from embedkit.system.disk import write_durably

if TYPE_CHECKING:
    from embedkit.models.base import Model

_log = logging.getLogger(__name__)

FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
_LONG = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}
NAMES = (*FLOATS, "int8", "auto")

ROUNDS, PATIENCE = 3, 1.0  # rounds and seconds at most
MARGIN = 1.1
"""How much faster than bf16 int8 has to be, which costs more of the scores."""
EDITION = 2  # of the code that is measured
_INT8 = Int8Layers()
_REPORTS: set[str] = set()  # what was logged already
_CASTS: MutableMapping[Tensor, tuple[tuple[Any, ...], Tensor]] = WeakTensorKeyDictionary()


def dtype_name(dtype: str | torch.dtype) -> str:
    """The short name of a type to compute in.

    Raises
    ------
    UserError
        For an unknown one.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.dtypes import dtype_name
    >>> dtype_name(torch.bfloat16), dtype_name("float32"), dtype_name("int8")
    ('bf16', 'fp32', 'int8')
    """
    name = str(dtype).removeprefix("torch.")
    name = _LONG.get(name, name)
    if name not in NAMES:
        raise UserError(f"unknown dtype {dtype!r}", remedy=nearest(name, [*_LONG, *NAMES]))
    return name


def native_dtypes(device: torch.device) -> tuple[str, ...]:
    """The types that a device computes in by its own instructions, fp32 first.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.dtypes import native_dtypes
    >>> native_dtypes(torch.device("cpu"))[0]
    'fp32'
    """
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("fp32", "bf16", "fp16") if bf16 else ("fp32", "fp16")
    if device.type != "cpu":
        return ("fp32", "fp16")
    return ("fp32", *(["bf16"] if cpu_has_bf16() else []), *(["int8"] if cpu_has_int8() else []))


def at_dtype(model: Model, dtype: str | torch.dtype) -> Model:
    """`model` computing in `dtype`, for encoding; int8 and bf16 weights are made once and kept beside the model.

    Raises
    ------
    UserError
        For a type that the device would emulate, or that the model has no layers for.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> from embedkit.models.execution.dtypes import at_dtype
    >>> model = StaticEncoder(tokenizer(), dim=4)
    >>> at_dtype(model, "fp64").dtype, model.dtype
    (torch.float64, torch.float32)
    """
    name = dtype_name(dtype)
    if model.compute is not None:
        if name in (model.compute, "auto"):
            return model
        raise UserError(f"the model was loaded in {model.compute}", where="dtype", remedy="load it without a dtype")
    if name == "auto":
        name = choose_dtype(model)
    if name in ("bf16", "fp16", "int8") and name not in native_dtypes(model.device):
        usable = ", ".join([*native_dtypes(model.device), "auto"])
        what = f"this {model.device.type} has no {name} instructions and would emulate them"
        raise UserError(what, where="dtype", remedy=f"use one of {usable}")
    if name == "int8":
        layers = linear_layers(model)
        if not layers or model.dtype != torch.float32:
            what = "no linear layers of 64 inputs and more" if not layers else f"{model.dtype} weights, not float32"
            raise UserError(f"int8: the model has {what}", where="dtype", remedy="use fp32")
        _quantize(model, layers)
        quantized: Model = rebuilt(model, _INT8.get)
        quantized.compute = "int8"
        return quantized
    if model.dtype == FLOATS[name]:
        return model
    cast: Model = rebuilt(model, lambda module: _cast(module, FLOATS[name]))
    return cast


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a module whose own parameters and saved buffers have another type."""
    new = copy.copy(module)
    new._parameters = {k: None if v is None else _cast_tensor(v, dtype) for k, v in module._parameters.items()}
    transient = module._non_persistent_buffers_set
    new._buffers = {k: v if v is None or k in transient else _cast_tensor(v, dtype) for k, v in module._buffers.items()}
    return new


def _cast_tensor(tensor: Any, dtype: torch.dtype) -> Any:
    """A parameter or buffer in another type, made once for the values that it has now."""
    if not tensor.is_floating_point():
        return tensor
    key = dtype, tensor.data_ptr(), tensor._version
    if tensor not in _CASTS or _CASTS[tensor][0] != key:
        cast = tensor.detach().to(dtype)
        _CASTS[tensor] = key, nn.Parameter(cast, requires_grad=False) if isinstance(tensor, nn.Parameter) else cast
    return _CASTS[tensor][1]


def _quantize(model: Model, layers: list[nn.Linear]) -> None:
    """Make the 8-bit forms where any is missing. The peaks of the activations are those of texts of the vocabulary and
    of blurred noise: they depend on the model alone, so its vectors do too."""
    if all(_INT8.get(layer) is not None for layer in layers):
        return
    with InputRecord(layers) as record:
        weights = sum(layer.weight.numel() for layer in layers)
        model.encode(sample_texts(model, int(np.clip(2e10 / weights, 200, 1_000))))
        if model.preprocess is not None:
            grids = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
            model.encode(list(grids.repeat(16, axis=1).repeat(16, axis=2)))
    for group in record.groups():
        _INT8.add(group, record.peaks.get(group[0]))


def sample_texts(model: Model, tokens: int) -> list[str]:
    """Texts of 3 to 40 words of the model's vocabulary, about `tokens` in all; the same at each call.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> from embedkit.models.execution.dtypes import sample_texts
    >>> len(sample_texts(StaticEncoder(tokenizer(), dim=4), tokens=200))
    10
    """
    words = sorted({word for token in model.text_model.tokenizer.get_vocab() if len(word := _word(token)) > 1})
    draw = random.Random(0)
    return [" ".join(draw.choices(words or ["a"], k=draw.randint(3, 40))) for _ in range(max(1, tokens // 20))]


def _word(token: str) -> str:
    """The letters of a token, without the marks of word pieces, byte-level pieces and SentencePiece."""
    word = token.removeprefix("##").removesuffix("</w>").lstrip("\u0120\u2581")
    return word if word.isalpha() else ""


@dataclass(frozen=True)
class Choice:
    """What `choose_dtype` measured.

    Attributes
    ----------
    dtype : str
        The fastest type.
    factor : float
        How many times as fast as fp32.
    cosine, lowest : float
        Mean and lowest cosine of its vectors with those of fp32.

    Examples
    --------
    >>> from embedkit.models.execution.dtypes import Choice
    >>> print(Choice("int8", 2.84, 0.9986, 0.991))
    int8: 2.8 x the speed of fp32 here; cosine with the vectors of fp32 0.9986 on average, 0.9910 at least
    """

    dtype: str
    factor: float
    cosine: float
    lowest: float

    def __str__(self) -> str:
        return (
            f"{self.dtype}: {self.factor:.1f} x the speed of fp32 here; cosine with the vectors of fp32 "
            f"{self.cosine:.4f} on average, {self.lowest:.4f} at least"
        )


def choose_dtype(model: Model) -> str:
    """The fastest type for `model` on this machine: measured once in about a second, then kept in a file.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> from embedkit.models.execution.dtypes import choose_dtype
    >>> choose_dtype(StaticEncoder(tokenizer(), dim=4))  # no linear layers
    'fp32'
    """
    layers = linear_layers(model)
    if not layers or model.dtype != torch.float32:
        return next(name for name, dtype in FLOATS.items() if dtype == model.dtype)
    file = Path.home() / ".cache" / "embedkit" / "dtypes.json"
    key, choices = _machine(model, layers), _read(file)
    if key not in choices:
        choices[key], steady = _measure(model, layers)
        if steady:
            _remember(file, choices)
    if key not in _REPORTS:
        _REPORTS.add(key)
        _log.warning("dtype auto: %s", choices[key])
    return choices[key].dtype


def _machine(model: Model, layers: list[nn.Linear]) -> str:
    """A name for the machine, the library and the shape of the model."""
    place = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else cpu_name()
    shapes = json.dumps([model.kind, *([layer.in_features, layer.out_features] for layer in layers)])
    shape = hashlib.sha256(shapes.encode()).hexdigest()[:12]
    return f"{place} | {torch.get_num_threads()} threads | torch {torch.__version__} | {shape} | {EDITION}"


def _measure(model: Model, layers: list[nn.Linear]) -> tuple[Choice, bool]:
    """The choice by the best of up to `ROUNDS` rounds on about 20 GFLOP of texts, and whether the rounds agree: beside
    other work they do not, and the outcome is not kept."""
    weights = sum(layer.weight.numel() for layer in layers)
    texts = sample_texts(model, int(np.clip(1e10 / weights, 60, 2_000)))
    models = {name: at_dtype(model, name) for name in native_dtypes(model.device)}
    vectors = {name: one.encode(texts, normalize=True) for name, one in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    begin = time.perf_counter()
    while len(seconds["fp32"]) < ROUNDS and time.perf_counter() - begin < PATIENCE:
        for name, one in models.items():
            start = time.perf_counter()
            one.encode(texts)
            seconds[name].append(time.perf_counter() - start)
    best = _best({name: min(rounds) for name, rounds in seconds.items()})
    cosines = (vectors[best] * vectors["fp32"]).sum(1)
    choice = Choice(best, min(seconds["fp32"]) / min(seconds[best]), float(cosines.mean()), float(cosines.min()))
    return choice, all(len(rounds) > 1 and max(rounds) < 2 * min(rounds) for rounds in seconds.values())


def _best(seconds: dict[str, float]) -> str:
    """The type of the least time, int8 by a `MARGIN` only."""
    return min(seconds, key=lambda name: seconds[name] * (MARGIN if name == "int8" else 1.0))


def _read(file: Path) -> dict[str, Choice]:
    try:
        return {key: Choice(**value) for key, value in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or of another version: measured again
        return {}


def _remember(file: Path, choices: dict[str, Choice]) -> None:
    """Write the file, where the home folder can be written: without it the next process measures again."""
    text = json.dumps({key: asdict(choice) for key, choice in choices.items()}, indent=1)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, text.encode("utf-8"))
    except (OSError, DiskError) as error:
        _log.info("dtype auto is not remembered: %s", error)
