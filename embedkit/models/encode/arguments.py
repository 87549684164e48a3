"""What users hand to `Model.encode`: inputs in any container, and the argument names of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from embedkit.errors import DataError, UserError, nearest

if TYPE_CHECKING:
    from embedkit.models.base import Model, Progress
    from embedkit.models.encode.quantization import VectorRanges

_TABLES = frozenset({"DataFrame", "LazyFrame", "Table", "RecordBatch", "Dataset", "DatasetDict", "IterableDataset"})
_TABLE_LIBRARIES = frozenset({"pandas", "polars", "pyarrow", "datasets"})


def items_of(inputs: Any) -> tuple[list[Any], bool]:
    """The single inputs as a list, in order, and whether they were one input without a container.

    Taken are one text, image or path; lists, tuples, generators and other iterables of them; numpy arrays of str,
    pandas and polars series, pyarrow arrays and columns of datasets. An array or tensor of numbers is one image (three
    axes) or a batch of images (four).

    Raises
    ------
    DataError
        For a table, a mapping or a set, whose inputs have no order or no single column, and for what is no container.

    Examples
    --------
    >>> from embedkit.models.encode.arguments import items_of
    >>> items_of("one text")
    (['one text'], True)
    >>> items_of(text for text in ("a", "b"))
    (['a', 'b'], False)
    """
    if isinstance(inputs, str | bytes | Path) or _is_picture(inputs):
        return [inputs], True
    library, name = type(inputs).__module__.partition(".")[0], type(inputs).__name__
    if library in _TABLE_LIBRARIES and name in _TABLES:
        raise DataError("a table was given", remedy="pass its column: table['text']")
    if isinstance(inputs, Mapping):
        raise DataError("a mapping was given", remedy="pass list(texts.values()), or the column of a table")
    if isinstance(inputs, AbstractSet):
        raise DataError("a set was given, which has no order", remedy="pass a list: sorted(texts)")
    if isinstance(inputs, np.ndarray | Tensor):
        return _array_items(inputs)
    if library == "pyarrow":
        return list(inputs.to_pylist()), False
    if library == "polars":
        return list(inputs.to_list()), False
    if isinstance(inputs, Iterable):
        return list(inputs), False
    raise DataError(f"inputs are {name}", remedy="give a text, an image, or a list of them")


def _is_picture(value: Any) -> bool:
    """Whether this is a PIL image, without importing Pillow where nobody did."""
    return any(base.__module__ == "PIL.Image" for base in type(value).__mro__)


def _array_items(array: Any) -> tuple[list[Any], bool]:
    if isinstance(array, np.ndarray) and array.dtype.kind in "UTOS":
        if array.ndim == 0:
            return [array.item()], True
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            raise DataError(f"an array of the shape {array.shape} was given", remedy="pass one column: array[:, 0]")
        return array.tolist(), False
    if array.ndim == 3:
        return [array], True
    if array.ndim == 4:
        return list(array), False
    raise DataError(
        f"an array of {array.dtype} with the shape {tuple(array.shape)} is neither texts nor images",
        remedy="give texts, or images (H, W, 3) as uint8 or from 0.0 to 1.0",
    )


@dataclass(frozen=True)
class EncodeSettings:
    """How `Model.encode` makes its vectors; see there.

    Attributes
    ----------
    prompt : str or None
        Name or text of a prompt.
    normalize, truncate_dim, batch_tokens, batch_size, progress
        As the arguments of `Model.encode`.

    Examples
    --------
    >>> EncodeSettings(prompt="query", truncate_dim=64)
    EncodeSettings(prompt='query', normalize=None, truncate_dim=64, batch_tokens=None, progress=None, batch_size=None)
    """

    prompt: str | None = None
    normalize: bool | None = None
    truncate_dim: int | None = None
    batch_tokens: int | None = None
    progress: Progress = None
    batch_size: int | None = None


OTHERS = {
    "prompt_name": None, "show_progress_bar": None, "convert_to_tensor": False, "convert_to_numpy": True,
    "convert_to_sparse_tensor": False,
    "normalize_embeddings": None, "device": None, "output_value": "sentence_embedding",
    "pool": None, "chunk_size": None,
}  # fmt: skip
"""Arguments of sentence-transformers' ``encode`` beside ours, with the value that stands for "not given"."""


def understood(model: Model, settings: EncodeSettings, others: dict[str, Any]) -> EncodeSettings:
    """Our settings of an ``encode`` call, those in sentence-transformers' words translated.

    Raises
    ------
    UserError
        For an unknown argument, for two names of one thing with different values, and for what embedkit does elsewhere.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> model = StaticEncoder(tokenizer(), dim=8, prompts={"query": "query: "})
    >>> understood(model, EncodeSettings(), {"prompt_name": "query", "normalize_embeddings": True})
    EncodeSettings(prompt='query', normalize=True, truncate_dim=None, batch_tokens=None, progress=None, batch_size=None)
    """
    for name in others:
        if name not in OTHERS:
            names = ["prompt", "normalize", "truncate_dim", "batch_tokens", "batch_size", "progress", *OTHERS]
            raise UserError(f"encode has no argument {name!r}", remedy=nearest(name, names))
    values = {**OTHERS, **others}
    _refuse_elsewhere(values)
    size = settings.batch_size
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise UserError(f"batch_size is {size!r}", remedy="give a whole number from 1 on")
    prompt, name = settings.prompt, values["prompt_name"]
    if name is not None:
        if prompt is not None:
            raise UserError("prompt and prompt_name were given", remedy="give one of them")
        if name not in model.prompts:
            known_names = nearest(str(name), model.prompts) if model.prompts else "the model has no prompts"
            raise UserError(f"unknown prompt {name!r}", where="prompt_name", remedy=known_names)
        prompt = name
    return EncodeSettings(
        prompt, _one("normalize", settings.normalize, "normalize_embeddings", values["normalize_embeddings"]),
        settings.truncate_dim, settings.batch_tokens,
        _one("progress", settings.progress, "show_progress_bar", values["show_progress_bar"]), size,
    )  # fmt: skip


def _one(name: str, value: Any, other: str, second: Any) -> Any:
    """The value of a setting that has two names."""
    if value is not None and second is not None and value != second:
        raise UserError(f"{name} is {value!r} and {other} is {second!r}", remedy="give one of them")
    return second if value is None else value


def _refuse_elsewhere(values: dict[str, Any]) -> None:
    """Refuse the arguments of sentence-transformers that have no effect here, with the way that has one."""
    if values["output_value"] != "sentence_embedding":
        raise UserError(
            f"encode has no output_value {values['output_value']!r}",
            remedy="token vectors: model.token_states(model.prepare(texts))",
        )
    if values["pool"] is not None or values["chunk_size"] is not None or isinstance(values["device"], list | tuple):
        raise UserError(
            "encode runs on one device", remedy="several share a file's rows: torchrun -m embedkit encode ..."
        )


def quantizer(precision: str | None, ranges: Any, own: VectorRanges | None) -> Callable[[np.ndarray], np.ndarray]:
    """The function that takes float32 vectors (N, D) to `precision`; ranges are those given, else the model's `own`.

    Raises
    ------
    UserError
        The precision is not known, or its ranges are missing or have no effect.

    Examples
    --------
    >>> quantizer("ubinary", None, None)(np.array([[1.0, -1.0, 1.0]], dtype=np.float32)).tolist()
    [[160]]
    """
    from embedkit.models.encode.quantization import bounds_of, quantize

    precision = precision or "float32"
    bounds = bounds_of(precision, ranges) or own
    if bounds is None and precision in ("int8", "uint8"):
        raise UserError(
            f"{precision} vectors need the range of each coordinate", where="ranges",
            remedy="learn them once: ranges=embedkit.VectorRanges.learn([model.encode(texts)])",
        )  # fmt: skip
    return lambda vectors: vectors if precision == "float32" else quantize(vectors, precision, bounds)


def move(model: Model, device: Any) -> None:
    """Put the model on `device`, as sentence-transformers' ``encode(device=...)`` does.

    Raises
    ------
    UserError
        When there is no such device.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 2)
    >>> move(layer, "meta")
    >>> layer.weight.device
    device(type='meta')
    """
    if device is not None:
        model.to(device_here(device))


def device_here(device: Any) -> torch.device:
    """The device of a name, when this machine has it.

    Raises
    ------
    UserError
        When there is no such device.

    Examples
    --------
    >>> device_here("gpu")
    Traceback (most recent call last):
        ...
    embedkit.errors.UserError: device: no device 'gpu' (Expected one of cpu, cuda, ...
    """
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
        return place
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"no device {device!r} ({reason})", where="device", remedy="cpu is always there") from error


def shaped(vectors: np.ndarray, single: bool, device: torch.device, others: dict[str, Any]) -> Any:
    """Vectors (N, D) in the form asked for: an array, a tensor, sparse or not, or a list of tensors; of one input (D,).

    Examples
    --------
    >>> vectors, cpu = np.zeros((1, 4), dtype=np.float32), torch.device("cpu")
    >>> shaped(vectors, True, cpu, {}).shape
    (4,)
    >>> shaped(vectors, False, cpu, {"convert_to_tensor": True})
    tensor([[0., 0., 0., 0.]])
    """
    values = {**OTHERS, **others}
    if values["convert_to_sparse_tensor"]:
        tensor = torch.from_numpy(vectors).to(device).to_sparse()
        return tensor[0] if single else tensor
    if values["convert_to_tensor"]:
        tensor = torch.from_numpy(vectors).to(device)
        return tensor[0] if single else tensor
    if not values["convert_to_numpy"]:
        rows = list(torch.from_numpy(vectors).to(device))
        return rows[0] if single else rows
    return vectors[0] if single else vectors
