"""Writing models: one folder that embedkit, sentence-transformers and transformers read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.disk import filling
from embedkit.errors import ModelError
from embedkit.models.folder import OWN_FILE, OWN_FORMAT

if TYPE_CHECKING:
    from embedkit.models.base import Model


def save(model: Model, path: str | Path, *, recipe: dict[str, Any] | None = None, overwrite: bool = False) -> Path:
    """Write `model` as a folder that is also a sentence-transformers folder where that can express it.

    What sentence-transformers cannot say (a train-only head, templates, mask and first-last pooling, n-grams) is in
    ``embedkit.json``; where the vectors would differ there, ``modules.json`` names a class that it refuses to load,
    so that nobody gets other vectors silently. The folder is written beside, synced to the disk and renamed. An
    embedkit folder at `path` is replaced; anything else only with `overwrite`.

    Raises
    ------
    ModelError
        When `path` holds something else.
    DiskError
        When it cannot be written; what was there is as it was.
    """
    return write_folder(path, lambda folder: write_own(model, folder, recipe), ours=OWN_FILE, overwrite=overwrite)


def write_own(model: Model, folder: Path, recipe: dict[str, Any] | None = None) -> None:
    """Fill an empty folder with `model` and its ``embedkit.json``."""
    from embedkit import __version__
    from embedkit.interop.sentence_transformers import write_model  # gate: its folders hold our models
    from embedkit.models.dual import DualEncoder
    from embedkit.models.dual_folder import write_dual

    layout = write_dual(model, folder) if isinstance(model, DualEncoder) else write_model(model, folder)
    own = {
        "format": OWN_FORMAT, "kind": model.kind, "embedkit": __version__, "hash": model.hash(), "spec": layout,
        "recipe": recipe,
    }  # fmt: skip
    write_json(folder / OWN_FILE, own)


def write_folder(path: str | Path, write: Callable[[Path], None], *, ours: str | None, overwrite: bool) -> Path:
    """Fill a new folder through `write` and put it at `path` in one step.

    `ours` names a file that marks a folder which may be replaced. File modes follow the umask.
    """
    target = Path(path).expanduser().absolute()
    if target.exists() and not overwrite and not _replaceable(target.resolve(), ours):
        raise ModelError(
            "exists and was not written by embedkit" if target.is_dir() else "is a file", where=str(path),
            remedy="choose another folder, or pass overwrite=True",
        )  # fmt: skip
    with filling(target, "the model") as folder:
        write(folder)
    return target


def _replaceable(target: Path, ours: str | None) -> bool:
    if not target.is_dir():
        return False
    return not any(target.iterdir()) or (ours is not None and (target / ours).is_file())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
