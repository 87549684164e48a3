"""Checks of a model folder before anything of it is read: nothing that is loaded can run code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedkit.errors import ModelError, UnsafeFileError
from embedkit.formats.folder import PICKLES, FolderPlan, read_json
from embedkit.formats.tensors import STATE_REMEDY

PICKLE_REMEDY = (
    "convert it to safetensors, or allow it: allow_pickle=True in Python, --allow-pickle on the command line, "
    "model.allow_pickle=true in a recipe (model.towers.text.allow_pickle for a tower)"
)
CODE_REMEDY = (
    "read that code, then allow it with a pinned revision: trust_remote_code=True in Python, --trust-remote-code on "
    "the command line, model.trust_remote_code=true in a recipe (model.towers.text.trust_remote_code for a tower)"
)

_WEIGHTS = ("pytorch_model", "adapter_model")
"""How the names of pickles begin that are weights, and nothing else of a run."""
_POINTER = b"version https://git-lfs"


def check_weights(plan: FolderPlan, allow_pickle: bool) -> None:
    """Refuse a folder whose weights are missing, or a pickle that was not allowed.

    Raises
    ------
    ModelError, UnsafeFileError
        Naming folder and file.

    Examples
    --------
    >>> folder = Path("pickle")
    >>> folder.mkdir()
    >>> (folder / "pytorch_model.bin").touch()
    >>> check_weights(FolderPlan(folder, folder, "text"), allow_pickle=False)
    Traceback (most recent call last):
    ...
    embedkit.errors.UnsafeFileError: pickle: the weights are a pickle (pytorch_model.bin), which can run code ...
    """
    for folder in [plan.weights, *(folder for folder, _ in plan.dense if folder is not None)]:
        if not folder.is_dir():
            raise ModelError("folder is missing", where=str(folder), remedy="the model folder is incomplete")
        _check_shards(folder)
        if any(folder.glob("*.safetensors")):
            _check_fetched(folder)
            continue
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        if not pickles:
            raise ModelError("no weights (*.safetensors) in the folder", where=str(folder), remedy="copy it completely")
        weights = [name for name in pickles if name.startswith(_WEIGHTS)]
        if not allow_pickle:
            raise UnsafeFileError(
                f"the weights are a pickle ({(weights or pickles)[0]}), which can run code when it is read",
                where=str(folder), remedy=PICKLE_REMEDY if weights else STATE_REMEDY,
            )  # fmt: skip
        if not weights:
            raise ModelError(f"no weights in the folder, only {pickles[0]}", where=str(folder), remedy=STATE_REMEDY)


def _check_fetched(folder: Path) -> None:
    """Refuse weights of which only the pointer of Git LFS is there: a repository cloned without their content."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ModelError(
                    "holds a pointer of Git LFS in place of the weights", where=str(path),
                    remedy="fetch them in the clone: git lfs install, then git lfs pull",
                )  # fmt: skip


def _check_shards(folder: Path) -> None:
    """Refuse weights that another file names, unless they are safetensors of this folder."""
    index, config = folder / "model.safetensors.index.json", folder / "config.json"
    names = [*read_json(index)["weight_map"].values()] if index.is_file() else []
    names += [*_values(read_json(config), "transformers_weights")] if config.is_file() else []
    for name in filter(None, names):
        if Path(name).name != name or not name.endswith((".safetensors", ".safetensors.index.json")):
            raise UnsafeFileError(
                f"names the weights {name!r}, no safetensors of this folder", where=str(folder),
                remedy="convert them to safetensors beside it",
            )  # fmt: skip


_MAY_NAME_CODE = (
    "config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "image_processor_config.json",
)  # fmt: skip


def check_code(folder: Path, trust_remote_code: bool) -> None:
    """Refuse what transformers would run, or fetch from elsewhere, because a file of the folder says so.

    Raises
    ------
    UnsafeFileError, ModelError
        Naming the file.

    Examples
    --------
    >>> folder = Path("code")
    >>> folder.mkdir()
    >>> _ = (folder / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.Model"}}')
    >>> check_code(folder, trust_remote_code=False)
    Traceback (most recent call last):
    ...
    embedkit.errors.UnsafeFileError: code/config.json: the model brings its own code (auto_map); ...
    """
    for name in _MAY_NAME_CODE:
        path = folder / name
        config = read_json(path) if path.is_file() else {}
        if _names_code(config) and not trust_remote_code:
            raise UnsafeFileError(
                "the model brings its own code (auto_map)", where=str(path),
                remedy=CODE_REMEDY,
            )  # fmt: skip
        if any("/" in str(kernel) for kernel in _values(config, "attn_implementation", "_attn_implementation")):
            raise UnsafeFileError(
                "names attention kernels on the hub, which are code", where=str(path),
                remedy="take attn_implementation out of the file",
            )  # fmt: skip


def _names_code(config: Any) -> bool:
    return any(True for _ in _values(config, "auto_map"))


def _values(config: Any, *keys: str) -> Iterator[Any]:
    """What stands under some keys at any depth of a JSON value."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from (value[key] for key in keys if key in value)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def check_text(folder: Path, tokenizer: Path | None = None) -> None:
    """Refuse a text encoder without configuration or tokenizer, which may stand in a folder of its own.

    Raises
    ------
    ModelError
        Naming the file that is missing.

    Examples
    --------
    >>> folder = Path("text")
    >>> folder.mkdir()
    >>> _ = (folder / "config.json").write_text('{"model_type": "bert"}')
    >>> check_text(folder)
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: text: no tokenizer in the folder; copy tokenizer.json there
    """
    if not (folder / "config.json").is_file():
        raise ModelError("file is missing", where=str(folder / "config.json"), remedy="the model folder is incomplete")
    config = read_json(folder / "config.json")
    if "model_type" not in config and "architectures" not in config:
        raise ModelError("names no model_type", where=str(folder / "config.json"), remedy="is it a transformers model?")
    if not has_tokenizer(tokenizer or folder):
        raise ModelError("no tokenizer in the folder", where=str(folder), remedy="copy tokenizer.json there")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer.

    Examples
    --------
    >>> Path("words").mkdir()
    >>> Path("words/vocab.txt").touch()
    >>> has_tokenizer(Path("words"))
    True
    """
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


_TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
    "tokenizer_config.json",
)  # fmt: skip
