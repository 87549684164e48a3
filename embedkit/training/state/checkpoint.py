"""Checkpoints that are either complete or not there, and that run nothing when they are read.

A checkpoint is a folder ``step-NNNNNNNN`` of safetensors and JSON files. It is written beside its place, every file is
fsynced, a manifest with sizes and SHA-256 goes in last, the folder is renamed, and only then older ones are deleted.
Reading takes the newest one whose manifest matches; incomplete and damaged ones are named and passed over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from embedkit.errors import CheckpointError
from embedkit.system.disk import disk_error, sync_folder, write_durably

MANIFEST = "complete.json"
_FOLDER = "step-{:08d}"
_TEMPORARY = ".writing-"
_KINDS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""Types of tensors by torch's names -> by those of the safetensors format."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Examples
    --------
    >>> store = CheckpointStore(Path("checkpoints"))
    >>> checkpoint = store.save(100, {}, {"state": {"epoch": 1}}, {"recipe.yaml": "name: pairs"})
    >>> checkpoint.path.name, checkpoint.json("state")
    ('step-00000100', {'epoch': 1})
    """

    path: Path
    step: int

    def tensors(self, name: str) -> dict[str, Any]:
        """The tensors of file ``NAME.safetensors``."""
        from safetensors.torch import load_file

        with self.reading(f"{name}.safetensors"):
            return load_file(self.path / f"{name}.safetensors")

    def json(self, name: str) -> Any:
        """The contents of file ``NAME.json``."""
        with self.reading(f"{name}.json"):
            return json.loads(self.text(f"{name}.json"))

    def text(self, name: str) -> str:
        """The contents of a text file."""
        with self.reading(name):
            return (self.path / name).read_text(encoding="utf-8")

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """What does not fit in a file raises CheckpointError: its hash is right, so embedkit has not written it so."""
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0] if str(error) else ""
            raise CheckpointError(
                f"{name} does not hold what embedkit writes ({type(error).__name__}: {reason})", where=str(self.path),
                remedy="resume from another checkpoint",
            ) from error  # fmt: skip


class CheckpointStore:
    """The checkpoints of one run folder.

    Parameters
    ----------
    folder : Path
        Created on the first save; a symbolic link to a folder is followed.
    keep : int
        Complete checkpoints kept besides the best one.

    Examples
    --------
    >>> store = CheckpointStore(Path("checkpoints"), keep=2)
    >>> for step in (100, 200, 300):
    ...     _ = store.save(step, {}, {"state": {"step": step}}, {}, best_step=100)
    >>> store.steps()
    [100, 200, 300]
    >>> _ = (store.at(300).path / "state.json").write_text("{}")
    >>> store.newest()[1]
    ['ignored damaged step-00000300 (state.json has 2 bytes, not 17)']
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Any]], documents: Mapping[str, Any],
        texts: Mapping[str, str], best_step: int | None = None,
    ) -> Checkpoint:  # fmt: skip
        """The complete checkpoint that is written; then those that are no longer kept are deleted.

        Parameters
        ----------
        tensors, documents, texts : mapping
            File name without suffix -> named tensors; -> JSON value; file name -> text.
        best_step : int, optional
            The step of the checkpoint that retention never deletes.

        Raises
        ------
        DiskError
            When the disk is full or the folder cannot be written; older checkpoints are untouched.
        """
        final = self.folder / _FOLDER.format(step)
        temporary = self.folder / f"{_TEMPORARY}{final.name}-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            _write_files(temporary, tensors, documents, texts)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
            sync_folder(self.folder)
        except (OSError, RuntimeError) as error:
            failed = disk_error(
                error, self.folder, f"could not save step {step}, older checkpoints are untouched",
                "copy the folder of the run to another disk and resume there with --output and --resume",
            )  # fmt: skip
            shutil.rmtree(temporary, ignore_errors=True)
            raise failed from error
        self._retire(step, best_step)
        return Checkpoint(final, step)

    def space_note(self, size: int) -> str | None:
        """A line when the disk will not hold all that is kept of checkpoints of `size` bytes, and one being written."""
        place = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        missing = max(1, self.keep + 2 - len(self.steps()))  # + 2: the best one, and the one being written
        free, need = shutil.disk_usage(place).free, missing * size
        if free >= need:
            return None
        return (
            f"{self.folder}: {free / 2**20:,.0f} MiB are free on this disk, checkpoints may need {need / 2**20:,.0f}: "
            "free some space, lower train.keep_checkpoints, or write elsewhere with --output"
        )

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is whole, and one line for each one that was passed over."""
        ignored = [f"ignored incomplete {path.name}" for path in sorted(self.folder.glob(f"{_TEMPORARY}*"))]
        for step in reversed(self.steps()):
            path = self.folder / _FOLDER.format(step)
            problem = verify(path)
            if problem is None:
                return Checkpoint(path, step), ignored
            ignored.append(f"ignored damaged {path.name} ({problem})")
        return None, ignored

    def steps(self) -> list[int]:
        """Steps that have a folder, whole or not, in order; folders that merely look alike are the user's own."""
        names = (re.fullmatch(r"step-(\d{8,})", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(name[1]) for name in names if name is not None)

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step; raises CheckpointError when it is missing or damaged."""
        path = self.folder / _FOLDER.format(step)
        problem = verify(path)
        if problem is not None:
            raise CheckpointError(f"cannot be used: {problem}", where=str(path), remedy="resume from another one")
        return Checkpoint(path, step)

    def sweep(self) -> None:
        """Delete what interrupted saves left behind; only for the holder of the run lock."""
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _retire(self, newest: int, best_step: int | None) -> None:
        steps = self.steps()
        keep = {*[s for s in steps if s <= newest][-self.keep :], best_step}
        for step in steps:
            if step not in keep:
                shutil.rmtree(self.folder / _FOLDER.format(step), ignore_errors=True)


def verify(path: Path) -> str | None:
    """Why a checkpoint folder cannot be trusted, or None when every file is as it was written.

    Examples
    --------
    >>> checkpoint = CheckpointStore(Path("checkpoints")).save(1, {}, {"state": {}}, {})
    >>> verify(checkpoint.path) is None
    True
    >>> verify(Path("checkpoints"))
    'no complete.json'
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        return f"no {MANIFEST}"
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        if not files:
            return f"{MANIFEST} names no file"
        for name, entry in files.items():
            if Path(name).name != name:
                return f"{MANIFEST} names {name!r}, a file outside the checkpoint"
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {entry['bytes']}"
            if _digest(file) != entry["sha256"]:
                return f"{name} has changed since it was written"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def seal(folder: Path) -> None:
    """Name size and hash of every file of a folder in its manifest, so that `verify` finds what changes later.

    Examples
    --------
    >>> Path("cache").mkdir()
    >>> _ = Path("cache/vectors.npy").write_bytes(b"123")
    >>> seal(Path("cache"))
    >>> _ = Path("cache/vectors.npy").write_bytes(b"456")
    >>> verify(Path("cache"))
    'vectors.npy has changed since it was written'
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    write_durably(folder / MANIFEST, _json_bytes({"files": files}), "the manifest")


def _write_files(
    folder: Path, tensors: Mapping[str, Mapping[str, Any]], documents: Mapping[str, Any], texts: Mapping[str, str]
) -> None:
    payloads: dict[str, bytes] = {f"{name}.json": _json_bytes(value) for name, value in documents.items()}
    payloads.update({name: text.encode("utf-8") for name, text in texts.items()})
    manifest: dict[str, dict[str, Any]] = {}
    for name, data in payloads.items():
        manifest[name] = _put(folder / name, [data])
    for name, group in tensors.items():
        manifest[f"{name}.safetensors"] = _put(folder / f"{name}.safetensors", _safetensors(group))
    _put(folder / MANIFEST, [_json_bytes({"files": manifest})])
    sync_folder(folder)


def _safetensors(tensors: Mapping[str, Any]) -> Iterator[Any]:
    """The pieces of a safetensors file (https://github.com/huggingface/safetensors, section Format).

    They are views of the tensors' own memory: the library's writers copy all of it first, which was the highest point
    of memory in a run.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # each begins at a multiple of its
    header, start = {}, 0
    for name in names:
        tensor = tensors[name]
        stop = start + tensor.numel() * tensor.element_size()
        kind = _KINDS[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    import torch

    for name in names:
        yield tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _put(path: Path, pieces: Iterable[Any]) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=True) + "\n").encode("utf-8")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slow_digest(file)
        )


def _slow_digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()
