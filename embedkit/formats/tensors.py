"""Weights in files: safetensors read and written, other readers silenced, damage reported as errors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError, UserError

if TYPE_CHECKING:
    from torch import Tensor

STATE_REMEDY = (
    "write its tensors alone beside config.json: "
    "safetensors.torch.save_file(torch.load(FILE)['state_dict'], 'FOLDER/model.safetensors')"
)


def find_tensors(encoder: Any, aliases: Mapping[str, Sequence[str]], allow_pickle: bool = False) -> dict[str, Tensor]:
    """Tensors of the files that an encoder was read from: for each key of `aliases` the first of its names in them.

    The tensors are float32; a key without one is absent. A pickle is looked into where `allow_pickle` says so and the
    safetensors hold nothing.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> Path("bert").mkdir()
    >>> write_tensors({"pooler.weight": torch.ones(2, 2)}, Path("bert"))
    >>> aliases = {"weight": ["pooler.dense.weight", "pooler.weight"], "bias": ["pooler.dense.bias", "pooler.bias"]}
    >>> find_tensors(SimpleNamespace(name_or_path="bert"), aliases)
    {'weight': tensor([[1., 1.],
            [1., 1.]])}
    """
    from safetensors import safe_open

    folder, tensors = Path(encoder.name_or_path), dict[str, "Tensor"]()
    if not encoder.name_or_path or not folder.is_dir():
        return tensors

    def take(keys: set[str], read: Callable[[str], Tensor]) -> None:
        for key, names in aliases.items():
            name = next((name for name in names if name in keys), None)
            if name is not None:
                tensors.setdefault(key, read(name).float())

    with reading(folder):
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                take(set(file.keys()), file.get_tensor)
        if not tensors and allow_pickle:
            import torch

            for path in sorted(folder.glob("pytorch_model*.bin")):
                state = torch.load(path, map_location="cpu", weights_only=True)
                take(set(state), state.__getitem__)
    return tensors


def read_tensors(folder: Path, allow_pickle: bool = False) -> dict[str, Any]:
    """The weights of a module's folder: model.safetensors, or a pickle where that is allowed.

    Examples
    --------
    >>> import torch
    >>> Path("2_Dense").mkdir()
    >>> write_tensors({"linear.bias": torch.zeros(2)}, Path("2_Dense"))
    >>> read_tensors(Path("2_Dense"))
    {'linear.bias': tensor([0., 0.])}
    """
    path = folder / "model.safetensors"
    if path.is_file() or not allow_pickle:
        return read_safetensors(path)
    import torch

    with reading(folder):
        tensors: dict[str, Any] = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    return tensors


def read_safetensors(path: Path) -> dict[str, Any]:
    """All tensors of a safetensors file by name.

    Raises
    ------
    ModelError
        The file is missing or damaged.

    Examples
    --------
    >>> read_safetensors(Path("model.safetensors"))
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: model.safetensors: file is missing; the model folder is incomplete
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise ModelError("file is missing", where=str(path), remedy="the model folder is incomplete") from None
    except SafetensorError as error:
        raise ModelError(f"is damaged ({error})", where=str(path), remedy="copy or write it again") from error


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """A block that reads a folder by a foreign library, silently; whatever fails in it is an error of the folder.

    Raises
    ------
    ModelError
        Instead of any error inside but those meant for people: a damaged file can make those readers raise anything.

    Examples
    --------
    >>> with reading(Path("bert")):
    ...     raise KeyError("hidden_size")
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: bert: cannot be loaded ('hidden_size'); is the folder complete?
    """
    try:
        with quiet():
            yield
    except UserError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = " ".join(lines[: 2 if lines[0].endswith(":") else 1])  # a heading says nothing by itself
        if "Weights only load failed" in reason:
            reason = "the pickle holds more than tensors, so it could run code"
        raise ModelError(f"cannot be loaded ({reason})", where=str(folder), remedy="is the folder complete?") from error


def check_complete(report: dict[str, Any], folder: Path) -> None:
    """Refuse a transformers model whose loading report names weights that are missing or of another shape.

    Raises
    ------
    ModelError
        With the number of such weights and the first of them.

    Examples
    --------
    >>> check_complete({"missing_keys": ["pooler.bias"], "mismatched_keys": []}, Path("bert"))
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: bert: 1 weights are missing or have another shape (first: pooler.bias); ...
    """
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("position_ids"))
    if missing or report["mismatched_keys"]:
        keys = missing or sorted(str(key) for key in report["mismatched_keys"])
        states = sorted({"state_dict", "model_state_dict"} & set(report.get("unexpected_keys") or ()))
        raise ModelError(
            f"{len(keys)} weights are missing or have another shape (first: {keys[0]})", where=str(folder),
            remedy=f"it is a checkpoint with {states[0]!r} inside: {STATE_REMEDY}" if states
            else "config.json and the weights do not belong together",
        )  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A block without the progress bars and load reports of transformers.

    Examples
    --------
    >>> from transformers.utils import logging
    >>> with quiet():
    ...     logging.is_progress_bar_enabled()
    False
    """
    from transformers.utils import logging as hf

    bars, level = hf.is_progress_bar_enabled(), hf.get_verbosity()
    hf.disable_progress_bar()
    hf.set_verbosity_error()
    try:
        yield
    finally:
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()


def write_tensors(state: dict[str, Any], folder: Path, name: str = "model.safetensors") -> None:
    """Write tensors as a safetensors file; shared ones are written twice.

    Examples
    --------
    >>> import torch
    >>> table = torch.ones(2, 3)
    >>> write_tensors({"embedding.weight": table, "head.weight": table}, Path(), "tied.safetensors")
    >>> sorted(read_safetensors(Path("tied.safetensors")))
    ['embedding.weight', 'head.weight']
    """
    from safetensors.torch import save_file

    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    save_file(tensors, folder / name, metadata={"format": "pt"})


def load_exactly(module: Any, tensors: dict[str, Any], where: Path) -> None:
    """Load a state dict whose names and shapes must be those of `module`.

    Raises
    ------
    ModelError
        Naming the first tensor that does not fit.

    Examples
    --------
    >>> import torch
    >>> load_exactly(torch.nn.Linear(2, 1), {"weight": torch.ones(1, 2)}, Path("2_Dense"))
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: 2_Dense: the weights do not fit (bias is missing, expected (1,)); ...
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    file_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(set(shapes.items()) ^ set(file_shapes.items()))
    if wrong:
        name = wrong[0][0]
        difference = f"{name} is {file_shapes.get(name, 'missing')}, expected {shapes.get(name, 'nothing')}"
        raise ModelError(f"the weights do not fit ({difference})", where=str(where), remedy="is the folder complete?")
    module.load_state_dict(tensors)


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer without the truncation and padding of its last call, which tokenizer.json would keep.

    Other readers of the file would cut texts there; embedkit's own length stands in the model's settings. A tokenizer
    without a padding token gets its end token for one in the file: other readers pad their batches.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> Path("words").mkdir()
    >>> write_tokenizer(tokenizer(), Path("words"))
    >>> sorted(path.name for path in Path("words").iterdir())
    ['tokenizer.json', 'tokenizer_config.json']
    """
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
        try:
            write_tokenizer(tokenizer, folder)
        finally:
            tokenizer.pad_token = None
        return
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        tokenizer.save_pretrained(folder)
        return
    truncation, padding = core.truncation, core.padding
    core.no_truncation()
    core.no_padding()
    try:
        tokenizer.save_pretrained(folder)
    finally:
        if truncation is not None:
            core.enable_truncation(**truncation)
        if padding is not None:
            core.enable_padding(**padding)
