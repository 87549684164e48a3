"""Models on the hub: a model's folder, card and results, and the checkpoints of its run where they are asked for.

The model is one commit, so that the hub never shows a half of it, and each checkpoint is another. What an upload that
was broken off has sent, the hub keeps: the same call again sends the rest.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError, UserError
from embedkit.evaluation.report.card import card_on_hub, write_card
from embedkit.evaluation.report.rendering import without_folders
from embedkit.formats.detect import locate
from embedkit.formats.folder import OWN_FILE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from embedkit.models.base import Model

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_STALE = ("*.safetensors", "*.safetensors.index.json", "modules.json", "[0-9]*_*/*")
"""Files of an earlier model that would be read together with a new one; they leave the repository with it."""
_RUN_FILES = ("log.jsonl", "holdout.json", "samples.json", "evaluations/*.json")
"""What is told of the run a model comes from, in the folder ``run`` of the repository."""
_CHECKPOINTS = "checkpoints"
_STEP = re.compile(r"step-[0-9]{8,}")
_NO_TOKEN = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write"


def push(
    model: str | Path | Model,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    checkpoints: bool = False,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """The address on the hub that a model was pushed to.

    Parameters
    ----------
    model : Model, str or Path
        A model, a model folder of embedkit, or the folder of a run.
    repo_id : str
        ``NAME`` or ``ORGANISATION/NAME``; a repository that does not exist is made.
    private : bool, optional
        Whether a new repository is private; the hub's default when None.
    revision : str, optional
        The branch, made where it does not exist; ``main`` when None.
    checkpoints : bool
        Push the checkpoints of the run too, from which others resume it.
    message : str, optional
        Of the commit.
    token : str, optional
        The one that `huggingface_hub` finds when None; it is never printed or written.

    Raises
    ------
    ModelError
        There is no model, it was not written by embedkit, or the folder has no checkpoints.
    UserError
        There is no token or it may not write, the name is not possible, or the hub cannot be reached.

    Examples
    --------
    >>> push("runs/faq", "no/such/name")
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: no/such/name: no name of a repository; give NAME or ORGANISATION/NAME
    """
    if not _REPO.fullmatch(repo_id):
        raise UserError("no name of a repository", where=repo_id, remedy="give NAME or ORGANISATION/NAME")
    with tempfile.TemporaryDirectory() as aside:
        if not isinstance(model, str | Path):
            if checkpoints:
                raise ModelError("a model in memory has no checkpoints", remedy="give the folder of its run")
            folder = model.save(Path(aside) / "model")
            write_card(folder, name=repo_id.rpartition("/")[2])
        else:
            if ":" not in str(model) and not os.path.exists(os.path.expanduser(model)):
                remedy = "give the folder of a run or of a model"
                raise ModelError("no such model folder", where=str(model), remedy=remedy)
            folder = locate(model, fetch=False)
        if not (folder / OWN_FILE).is_file():
            raise ModelError("was not written by embedkit", where=str(folder),
                             remedy="write it with `embedkit export MODEL FOLDER`, or use `hf upload`")  # fmt: skip
        steps = _checkpoints(folder) if checkpoints else []
        with _answered(repo_id), _bars():
            return _pushed(_hub(token), folder, repo_id, private, revision, steps, message)


def _hub(token: str | None) -> HfApi:
    from huggingface_hub import HfApi, get_token

    secret = token or get_token()
    if not secret:
        raise UserError("there is no token", where="the hub", remedy=_NO_TOKEN)
    if not secret.isascii():  # no header can hold it
        remedy = "copy it again, without quotation marks, into HF_TOKEN"
        raise UserError("the token has characters that no token has", where="the hub", remedy=remedy)
    return HfApi(token=token)


@contextmanager
def _answered(repo_id: str) -> Iterator[None]:
    """A block in which what the hub or the way to it answers becomes one line."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # of its client: httpx, or httpx2 since hub 2

    try:
        yield
    except HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            reason = "the hub does not know this token" if code == 401 else "this token may not write here"
            raise UserError(reason, where=repo_id, remedy=_NO_TOKEN) from error
        raise UserError(f"the hub answers {code} ({_reason(error)})", where=repo_id,
                        remedy="check the name and the settings of the repository") from error  # fmt: skip
    except (HTTPError, OSError, RuntimeError) as error:  # of the client, of the system, of the client's upload in Rust
        raise UserError(
            f"the hub cannot be reached ({_reason(error)})", where=repo_id,
            remedy="check the network; then give the same command again: what was sent before is kept",
        ) from error  # fmt: skip


@contextmanager
def _bars() -> Iterator[None]:
    """A block with the hub client's bars on a terminal, ended before an error's line, and without them elsewhere."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        try:
            yield
        except Exception:
            print(file=sys.stderr)
            raise
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _reason(error: BaseException) -> str:
    """The first line of an error, or of the one that it was raised for."""
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0][:200]


def _checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of the run that a model folder belongs to, in the order of their steps."""
    steps = sorted(path for path in (folder.parent / _CHECKPOINTS).glob("step-*") if _STEP.fullmatch(path.name))
    complete = [path for path in steps if (path / "complete.json").is_file()]
    if not complete:
        raise ModelError("there are no checkpoints", where=str(folder.parent), remedy="leave --checkpoints out")
    return complete


def _pushed(
    hub: HfApi, folder: Path, name: str, private: bool | None, revision: str | None, steps: list[Path],
    message: str | None,
) -> str:  # fmt: skip
    repo_id = hub.create_repo(name, private=private, exist_ok=True).repo_id
    if revision is not None:
        hub.create_branch(repo_id, branch=revision, exist_ok=True)
    _commit(hub, repo_id, _model_files(folder, repo_id), revision, message or "Model of embedkit", clear=True)
    for step in steps:
        files = {f"{_CHECKPOINTS}/{step.name}/{path.name}": path for path in sorted(step.iterdir()) if path.is_file()}
        _commit(hub, repo_id, files, revision, f"Checkpoint {step.name}", clear=False)
    return f"{hub.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision else "")


def _model_files(folder: Path, repo_id: str) -> dict[str, Path | bytes]:
    """Path in the repository -> file or content; no text names a folder of this machine."""
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    own = json.loads((folder / OWN_FILE).read_text(encoding="utf-8"))
    files[OWN_FILE] = _json(without_folders(own))
    card = folder / "README.md"
    if card.is_file():
        files["README.md"] = card_on_hub(card.read_text(encoding="utf-8"), repo_id).encode()
    run = folder.parent
    if (run / "log.jsonl").is_file():
        for pattern in _RUN_FILES:
            for path in sorted(run.glob(pattern)):
                files[f"run/{path.relative_to(run).as_posix()}"] = _shared(path)
    return files


def _shared(path: Path) -> Path | bytes:
    """A file of a run as it leaves the machine: JSON with every absolute path in it shortened."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return path if '"/' not in text else b"".join(
            json.dumps(without_folders(json.loads(line))).encode() + b"\n" for line in text.splitlines()
        )  # fmt: skip
    return _json(without_folders(json.loads(text)))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def _commit(
    hub: HfApi, repo_id: str, files: Mapping[str, Path | bytes], revision: str | None, message: str, clear: bool
) -> None:
    """One commit with these files; with `clear` without those of an earlier model."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    additions = [CommitOperationAdd(place, content) for place, content in files.items()]
    there = hub.list_repo_files(repo_id, revision=revision) if clear else []
    stale = [CommitOperationDelete(path) for path in _stale(there, files)]
    hub.create_commit(repo_id, [*additions, *stale], commit_message=message, revision=revision)


def _stale(there: Iterable[str], files: Iterable[str]) -> list[str]:
    """The files of an earlier model, which the new one does not have."""
    new = set(files)
    old = (path for path in there if path not in new and not path.startswith(f"{_CHECKPOINTS}/"))
    return [path for path in old if any(fnmatch.fnmatch(path, pattern) for pattern in _STALE)]
