"""Which library wrote a model folder, and what the folder says, read without loading a model.

Nothing here imports torch or transformers."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from embedkit.errors import ModelError
from embedkit.formats.folder import PICKLES, FolderPlan
from embedkit.formats.registry import reader_of
from embedkit.formats.safety import check_code, check_text, check_weights

_log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


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
    name: str | Path, revision: str | None = None, code: bool = False, pickle: bool = False, *, fetch: bool = True
) -> Path:
    """The local folder of a model: `name` itself, or the snapshot of a hub id.

    A hub id that only a file names is looked for in the hub's cache with ``fetch=False`` and never downloaded.

    Raises
    ------
    ModelError
        When there is no such folder, or the hub cannot give it.
    """
    for scheme in ("local-dir:", "hf-hub:"):
        name = str(name).removeprefix(scheme) if str(name).startswith(scheme) else name
    text = str(name)
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        known = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, no permission, unknown ~user
        said = getattr(error, "strerror", None) or error
        raise ModelError(f"not a usable path ({said})", where=text[:200], remedy="check the path") from error
    if known:
        raise ModelError("is a file, not a model folder", where=text, remedy="give the folder that holds it")
    if not _HUB_ID.fullmatch(text) or text.count("/") > 1 or path.suffix.lower() in _FILE_SUFFIXES:
        raise ModelError("no such model folder", where=text, remedy="check the path, or give a hub id like org/name")
    return _snapshot(text, revision, code, pickle, fetch)


def _snapshot(name: str, revision: str | None, code: bool, pickle: bool, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [*_HUB_PATTERNS, *(["*.py"] if code else []), *(["*.bin"] if pickle else [])]
    # ONNX, OpenVINO and the like hold weights that are not read here
    ignored = ["onnx/*", "openvino/*", "coreml/*", "*.onnx"]
    ignored += [*([] if code else ["*.py"]), *([] if pickle else [f"*{suffix}" for suffix in PICKLES])]
    if fetch:
        _log.warning("%s: no folder of this name, so taken for a hub id (revision %s)", name, revision or "main")
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=ignored, local_files_only=not fetch
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"neither a folder here nor a model that the hub can give ({reason})", where=name,
            remedy="check the name and the network" if fetch else f"fetch it once: hf download {name}",
        ) from error  # fmt: skip


def inspect(root: Path, *, trust_remote_code: bool = False, allow_pickle: bool = False) -> FolderPlan:
    """What `root` holds.

    Raises
    ------
    ModelError
        When it is no model folder, or has parts that this library does not know.
    UnsafeFileError
        When reading it would run code: a pickle, or remote code.
    """
    with _described(root):
        return _inspected(root, trust_remote_code, allow_pickle)


@contextlib.contextmanager
def _described(root: Path) -> Iterator[None]:
    """Whatever the descriptions in a folder lack, or hold in the wrong place, is the folder's fault and told so."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ModelError(
            f"a description in this folder is damaged ({said})", where=str(root), remedy="write the folder again"
        ) from error


def _inspected(root: Path, trust_remote_code: bool, allow_pickle: bool) -> FolderPlan:
    reader = reader_of(root)
    plan = reader.plan(root)
    plan.origin = reader.name
    if reader.checks_weights:
        check_weights(plan, allow_pickle)
    check_code(plan.weights, trust_remote_code)
    if plan.kind in ("text", "clip-text"):
        check_text(plan.weights)
    return plan
