"""The library that wrote a model folder, and the plan of the folder, read without loading a model.

Nothing here imports torch or transformers."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from embedkit.errors import ModelError
from embedkit.formats.folder import PICKLES, FolderPlan
from embedkit.formats.registry import is_model, reader_of
from embedkit.formats.safety import check_code, check_text, check_weights

_log = logging.getLogger(__name__)

_TOLD: set[tuple[str, str | None]] = set()
"""The hub ids and revisions that a line was written about; check and build of one run resolve the same name twice."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HF = "hf://"
_ADDRESS = re.compile(
    r"hf://(models/)?(?!(?:datasets|spaces|buckets|models)/)(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(@(?P<revision>[\w.-]+))?(?P<folder>/.*)?"
)
_STAGE = re.compile(r"[1-9][0-9]*-")  # see embedkit.config.stages.folder_of_stage


# a name with such an end is a file that is missing, no hub id
_FILE_SUFFIXES = (
    ".bin", ".csv", ".gz", ".html", ".jpg", ".json", ".jsonl", ".npy", ".npz", ".onnx", ".parquet", ".pkl", ".png",
    ".pt", ".pth", ".safetensors", ".tar", ".tgz", ".tsv", ".txt", ".yaml", ".yml", ".zip",
)  # fmt: skip


_HUB_PATTERNS = [
    "*.json", "*.safetensors", "*.txt", "*.model", "*.jinja",
    "*/config.json", "*/*.safetensors", "*/tokenizer*", "*/vocab*", "*/*.json",
]  # fmt: skip


def locate(
    name: str | Path, revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False, *,
    fetch: bool = True,
) -> Path:  # fmt: skip
    """The local folder of a model: `name` itself, or the snapshot of a hub id or of ``hf://NAME@REVISION/FOLDER``.

    A hub id that only a file names is looked for in the hub's cache with ``fetch=False`` and never downloaded.

    Raises
    ------
    ModelError
        When there is no such folder, or the hub cannot give it.

    Examples
    --------
    >>> Path("runs/faq/model").mkdir(parents=True)
    >>> Path("runs/faq/log.jsonl").touch()  # the folder of a run stands for its model
    >>> locate("runs/faq").as_posix()
    'runs/faq/model'
    """
    if str(name).startswith(_HF):
        return _at_address(str(name), revision, trust_remote_code, allow_pickle, fetch)
    for scheme in ("local-dir:", "hf-hub:"):
        name = str(name).removeprefix(scheme) if str(name).startswith(scheme) else name
    text = str(name)
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return _model_of(path)
        exists = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, no permission, unknown ~user
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"not a usable path ({reason})", where=text[:200], remedy="check the path") from error
    if exists:
        raise ModelError("is a file, not a model folder", where=text, remedy=_way_of_a_file(path))
    if path.name == "model" and (path.parent / "log.jsonl").is_file():
        raise _unfinished(text)
    if not _HUB_ID.fullmatch(text) or text.count("/") > 1 or path.suffix.lower() in _FILE_SUFFIXES:
        raise ModelError("no such model folder", where=text, remedy="check the path, or give a hub id like org/name")
    return _snapshot(text, revision, trust_remote_code, allow_pickle, fetch)


def _at_address(address: str, revision: str | None, code: bool, pickle: bool, fetch: bool) -> Path:
    """The folder that ``hf://[models/]ORGANISATION/NAME[@REVISION][/FOLDER]`` names, in the snapshot of the hub."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ModelError(
            "no address of a model on the hub", where=address,
            remedy="write hf://ORGANISATION/NAME, with @REVISION and a /FOLDER behind it if need be",
        )  # fmt: skip
    name, version, folder = match["name"], match["revision"], (match["folder"] or "").strip("/")
    if version and revision and version != revision:
        raise ModelError(f"revision {revision!r} is asked for too", where=address, remedy="name one of the two")
    if ".." in folder.split("/"):
        raise ModelError("the folder must lie inside the repository", where=address, remedy="check the address")
    place = _snapshot(name, version or revision, code, pickle, fetch, folder) / folder
    if not place.is_dir():
        raise ModelError("no such folder in this repository", where=address, remedy="check the address")
    return _model_of(place)


def _unfinished(where: str) -> ModelError:
    return ModelError(
        "the run has not written its model: it was stopped, or is not finished", where=where,
        remedy="give the command that started it once more, with --resume",
    )  # fmt: skip


def _way_of_a_file(path: Path) -> str:
    if path.suffix.lower() in PICKLES:
        return (
            "a checkpoint alone does not say what model it is of: write it as a folder with safetensors by the library "
            f"that trained it, and give that; one of open_clip is open_clip:ARCHITECTURE/{path} with --allow-pickle"
        )
    return "give the folder that holds it"


def _model_of(path: Path) -> Path:
    """The model folder that a folder stands for: the model of a run, that of its last stage where it has stages, the
    ``main`` snapshot of a folder of the hub's cache, otherwise the folder itself.

    Raises
    ------
    ModelError
        For a run whose last stage has no model yet, and for the output folder of another trainer, naming its
        checkpoints.
    """
    if (path / "log.jsonl").is_file() and (path / "model").is_dir():
        return path / "model"
    stages = stage_folders(path)
    if stages:
        last = stages[-1] / "model"
        if not last.is_dir():
            raise _unfinished(str(last))
        return last
    head = path / "refs" / "main"
    if head.is_file() and (path / "snapshots").is_dir():
        snapshot = path / "snapshots" / head.read_text(encoding="utf-8").strip()
        if snapshot.is_dir():
            return snapshot
    if is_model(path):
        return path
    steps = sorted((int(p.name[11:]), p) for p in path.glob("checkpoint-*") if p.is_dir() and p.name[11:].isdigit())
    if steps:
        numbers = ", ".join(str(step) for step, _ in steps)
        raise ModelError(f"holds checkpoints {numbers}, no model", where=str(path), remedy=f"give {steps[-1][1]}")
    epochs = [p for part in ("checkpoints", ".") for p in (path / part).glob("epoch_*.pt") if p.stem[6:].isdigit()]
    if epochs:
        last = max(epochs, key=lambda file: int(file.stem[6:]))
        raise ModelError(
            "is a run of open_clip, no model folder", where=str(path),
            remedy=f"give open_clip:ARCHITECTURE/{last} with --allow-pickle",
        )  # fmt: skip
    return path


def stage_folders(path: Path) -> list[Path]:
    """The folders of a run's stages in their order; empty where a folder is no run of stages.

    Examples
    --------
    >>> Path("own/1-top").mkdir(parents=True)
    >>> Path("own/1-top/log.jsonl").touch()
    >>> [folder.name for folder in stage_folders(Path("own"))]
    ['1-top']
    """
    stages = {int(p.name.partition("-")[0]): p for p in path.glob("*-*") if _STAGE.match(p.name) and p.is_dir()}
    if 1 not in stages or not (stages[1] / "log.jsonl").is_file():
        return []
    return [stages[number] for number in sorted(stages)]


def _snapshot(name: str, revision: str | None, code: bool, pickle: bool, fetch: bool, folder: str = "") -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    patterns = [*_HUB_PATTERNS, *(["*.py"] if code else []), *(["*.bin"] if pickle else [])]
    if folder:
        patterns = [f"{folder}/{pattern}" for pattern in patterns]
    # ONNX, OpenVINO and the like hold weights that are not read here
    ignored = ["onnx/*", "openvino/*", "coreml/*", "*.onnx"]
    ignored += [*([] if code else ["*.py"]), *([] if pickle else [f"*{suffix}" for suffix in PICKLES])]
    if fetch and (name, revision) not in _TOLD:
        _TOLD.add((name, revision))
        _log.warning("%s: no folder of this name, so taken for a hub id (revision %s)", name, revision or "main")
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=ignored, local_files_only=not fetch
            )
        )
    except (HTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        remedy = "check the name and the network, or name a folder" if fetch else f"fetch it once: hf download {name}"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"neither a folder here nor a model that the hub can give ({reason})", where=name, remedy=remedy,
        ) from error  # fmt: skip


def inspect(
    root: Path, *, trust_remote_code: bool = False, allow_pickle: bool = False, route: str | None = None
) -> FolderPlan:
    """The plan of the model folder `root`.

    `route` picks one of the routes of a sentence-transformers folder that has several (query, document).

    Raises
    ------
    ModelError
        When it is no model folder, or has parts that this library does not know.
    UnsafeFileError
        When reading it would run code: a pickle, or remote code.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> plan = inspect(StaticEncoder(tokenizer(), dim=4).save("words"))
    >>> plan.kind, plan.origin, plan.spec["normalize"]
    ('static', 'embedkit', True)
    """
    with _described(root):
        return _inspected(root, trust_remote_code, allow_pickle, route)


@contextlib.contextmanager
def _described(root: Path) -> Iterator[None]:
    """A block in which a missing or misplaced entry of a description is an error of the folder."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ModelError(
            f"a description in this folder is damaged ({reason})", where=str(root), remedy="write the folder again"
        ) from error


def _inspected(root: Path, trust_remote_code: bool, allow_pickle: bool, route: str | None) -> FolderPlan:
    reader = reader_of(root)
    plan = reader.plan(root) if route is None else reader.plan_of_route(root, route)
    plan.origin = reader.name
    if reader.checks_weights and not plan.members:  # they are checked when they are read
        check_weights(plan, allow_pickle)
    for folder in dict.fromkeys([plan.weights, plan.tokenizer or plan.weights]):
        check_code(folder, trust_remote_code)
    if plan.kind in ("text", "clip-text"):
        check_text(plan.weights, plan.tokenizer)
    plan.close()
    return plan
