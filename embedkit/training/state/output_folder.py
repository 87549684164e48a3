"""The output folder of a run: what may be in it when the run begins."""

from __future__ import annotations

from pathlib import Path

from embedkit.errors import CheckpointError
from embedkit.formats.folder import OWN_FILE

_OTHER = "give another train.output"


def check_folder(folder: Path, resume: bool) -> None:
    """Refuse a folder with a run in it, unless that is resumed, one with a model that a run would replace, and a file.

    Examples
    --------
    >>> Path("runs/half/checkpoints/step-5").mkdir(parents=True)
    >>> check_folder(Path("runs/half"), resume=True)
    >>> check_folder(Path("runs/half"), resume=False)
    Traceback (most recent call last):
    embedkit.errors.CheckpointError: runs/half: the output folder holds a run; add --resume, or give ...
    """
    model = folder / "model"
    try:
        has_run = folder.is_dir() and any(folder.glob("checkpoints/step-*"))
        exists, has_model = folder.exists(), model.exists()
        is_foreign = has_model and not (model / OWN_FILE).is_file() and (not model.is_dir() or any(model.iterdir()))
    except (OSError, ValueError) as error:  # too long, NUL, no permission
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"not a usable path ({reason})", where=str(folder)[:200], remedy="check it") from error
    if exists and not folder.is_dir():
        raise CheckpointError("is not a folder", where=str(folder), remedy=_OTHER)
    if is_foreign:
        what = "embedkit did not write this, and a run would put its model in the place of it"
        raise CheckpointError(what, where=str(model), remedy=_OTHER)
    if has_run and not resume:
        raise CheckpointError(
            "the output folder holds a run", where=str(folder), remedy=f"add --resume, or {_OTHER}"
        )  # fmt: skip
    if not has_run and (has_model if not resume else (model / OWN_FILE).is_file()):
        refuse_model(folder)


def refuse_model(folder: Path) -> None:
    """Refuse to begin anew, for want of a whole checkpoint, where a model would be replaced.

    Examples
    --------
    >>> refuse_model(Path("runs/new"))
    >>> Path("runs/done/model").mkdir(parents=True)
    >>> refuse_model(Path("runs/done"))
    Traceback (most recent call last):
    embedkit.errors.CheckpointError: runs/done: the output folder holds a model, but no checkpoint to resume from; ...
    """
    if (folder / "model").exists():
        what = "the output folder holds a model, but no checkpoint to resume from"
        raise CheckpointError(what, where=str(folder), remedy=_OTHER)
