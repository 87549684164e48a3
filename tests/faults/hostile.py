"""What the cases of hostile files share: a payload that leaves a trace when it runs, and what must be said instead."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import os
import pickle
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from embedkit.errors import UserError
from tests.faults.frame import TRACEBACK


class _Touch:
    """Pickled, it makes a file wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({self.path!r}, 'w').close()",)


class Canary:
    """A file that only a payload makes: while it is not there, nothing has run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "canary"

    @property
    def bytes(self) -> bytes:
        """A pickle that makes the file."""
        return pickle.dumps(_Touch(self.path))

    @property
    def code(self) -> str:
        """Python code that makes the file, and any class one asks for."""
        return f"open({str(self.path)!r}, 'w').close()\nclass Evil:\n    pass\n"

    def torch(self, path: Path) -> None:
        """Save it as ``torch.save`` does."""
        import torch

        torch.save({"weight": _Touch(self.path)}, path)

    def numpy(self, path: Path) -> None:
        """Save it as an array of objects."""
        import numpy as np

        np.save(path, np.array([_Touch(self.path)], dtype=object), allow_pickle=True)

    def alive(self) -> bool:
        """Whether nothing has run."""
        return not self.path.exists()

    def ran(self) -> bool:
        """Whether the payload has run; takes its trace away."""
        found = self.path.exists()
        self.path.unlink(missing_ok=True)
        return found


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


UNSAFE = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
"""Makes torch.load read any pickle where it is not told otherwise."""


def refused(call: Callable[[], Any], *parts: str) -> str:
    """The line of the error that `call` must raise, and it must hold one of `parts`, where there are some."""
    try:
        found = call()
    except UserError as error:
        line = str(error)
        assert "\n" not in line and TRACEBACK not in line and len(line) < 2000, line
        assert not parts or any(part in line for part in parts), f"none of {parts} in: {line}"
        return line
    raise AssertionError(f"not refused: {found!r:.200}")


def quietly(call: Callable[[], Any]) -> Any:
    """What `call` gives, or the error meant for people that it raised; any other error is a failure."""
    try:
        return call()
    except UserError as error:
        return error


@functools.cache
def _models() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="embedkit-hostile-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _made(kind: str) -> Path:
    from tests.helpers import tiny

    place = _models() / kind
    if kind == "own":
        return tiny.model_folder(place)
    if kind == "transformers":
        model = tiny.text_encoder()
        model.encoder.config._attn_implementation = "eager"
        model.encoder.save_pretrained(place)
        tiny.tokenizer_folder(place)
        return place
    if kind == "clip":
        from tests.formats.test_dual_export import transformers_clip

        transformers_clip(place)
        return place
    if kind == "open_clip":
        from embedkit.formats.open_clip import writer as open_clip
        from tests.helpers import dual

        place.mkdir()
        open_clip.write_files(dual.dual(clip=True, cleaning="lower"), place)
        return place
    raise ValueError(kind)


def model_copy(kind: str, target: Path) -> Path:
    """A fresh copy of a good model folder: "own" (embedkit's), "transformers" (BERT), "clip" (transformers' CLIP),
    "open_clip"."""
    return Path(shutil.copytree(_made(kind), target))


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, **changes}))


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """A tar file of these members, as they are."""
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if content else None)
    return path


def member(name: str, **values: Any) -> tarfile.TarInfo:
    """The head of a file in a tar."""
    info = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info
