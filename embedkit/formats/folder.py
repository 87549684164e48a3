"""The plan of a model folder: how an input becomes a vector, as its files define it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedkit.errors import ModelError, UnsafeFileError
from embedkit.system.disk import filling

OWN_FILE = "embedkit.json"
OWN_FORMAT = 1
OPEN_CLIP_FILE = "open_clip_config.json"
DUAL_TYPES = ("clip", "metaclip_2", "siglip", "siglip2", "vision-text-dual-encoder")
TRAIN_ONLY_FILE = "embedkit_train_only.safetensors"
SOFT_PROMPT_FILE = "embedkit_soft_prompt.safetensors"

_log = logging.getLogger(__name__)
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class Settings(dict[str, Any]):
    """A JSON object of a model folder that remembers which of its keys were read.

    Examples
    --------
    >>> settings = Settings({"pooling": "mean", "colour": "red"}, Path("config.json"))
    >>> settings["pooling"], settings.unread()
    ('mean', ['colour'])
    """

    def __init__(self, value: dict[str, Any], path: Path) -> None:
        super().__init__(value)
        self.path = path
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """See `dict.get`; the key counts as read."""
        self._read.add(key)
        return super().get(key, default)

    def pass_over(self, keys: Iterable[str]) -> None:
        """Count keys as read that say nothing about the vectors."""
        self._read.update(keys)

    def unread(self) -> list[str]:
        """Keys with a value that nobody read."""
        return [key for key, value in self.items() if key not in self._read and value not in (None, {}, [], "")]


@dataclass
class FolderPlan:
    """How a text becomes a vector, as the files of a model folder define it.

    Attributes
    ----------
    root : Path
        The folder.
    weights : Path
        The folder of the encoder's weights and tokenizer (a sub-folder in old sentence-transformers layouts).
    kind : str
        "text", "clip-text", "static", "feature", "sequence", "dual", "concatenation", "chain", "multi" or
        "multi-prompt".
    origin : str
        Name of the reader, one of `embedkit.formats.registry.readers`.
    spec : dict
        Settings: pooling, max_length, normalize, prompts, default_prompt; keys that the folder leaves open are absent.
    dense : list of (folder, settings)
        Layers on the pooled vector that are kept at inference, in order; no folder where a layer has no weights.
    train_only : list of dict
        Settings of layers used in training only.
    lower_case : bool
        Whether texts are lower-cased in front of the tokenizer.
    adapter : Path or None
        Folder of a peft adapter that belongs onto `weights`.
    tokenizer : Path or None
        Folder of the tokenizer where it is not `weights`.
    notes : list of str
        Guesses, and settings of the folder that have no effect here; `embedkit.load` logs them as warnings.
    similarity : str
        How the folder's owner compares two vectors: cosine, dot, euclidean or manhattan.
    members : list of Path
        Folders of the models that this one is made of.

    Examples
    --------
    >>> write_json(Path("config.json"), {"pooling": "mean", "colour": "red"})
    >>> plan = FolderPlan(Path(), Path(), "text")
    >>> plan.spec["pooling"] = plan.settings(Path("config.json"))["pooling"]
    >>> plan.close()
    >>> plan.notes
    ['config.json: not used: colour = "red"']
    """

    root: Path
    weights: Path
    kind: str
    origin: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    dense: list[tuple[Path | None, dict[str, Any]]] = field(default_factory=list)
    train_only: list[dict[str, Any]] = field(default_factory=list)
    lower_case: bool = False
    adapter: Path | None = None
    tokenizer: Path | None = None
    notes: list[str] = field(default_factory=list)
    similarity: str = "cosine"
    members: list[Path] = field(default_factory=list)
    files: list[Settings] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.own_length: int | None = None
        self.own_pooling: str | None = None

    def settings(self, path: Path) -> Settings:
        """The JSON object of a file of this folder, empty where there is no such file; keys that no reader asks for
        become notes.

        Raises
        ------
        ModelError
            When the file is not JSON, or holds no object.
        """
        value = read_json(path) if path.is_file() else {}
        if not isinstance(value, dict):
            raise ModelError("is no JSON object", where=str(path), remedy="write the folder again")
        self.files.append(Settings(value, path))
        return self.files[-1]

    def close(self) -> None:
        """Add a note for keys that no reader asked for; called once when the plan is complete."""
        for file in self.files:
            keys = file.unread()
            if keys:
                place = file.path.relative_to(self.root) if file.path.is_relative_to(self.root) else file.path
                self.notes.append(f"{place}: not used: {', '.join(f'{key} = {_short(file[key])}' for key in keys)}")
        self.own_length, self.own_pooling = self.spec.get("max_length"), self.spec.get("pooling")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_json(path: Path) -> Any:
    """The JSON value of a file.

    Raises
    ------
    ModelError
        When it is missing or not JSON.

    Examples
    --------
    >>> read_json(Path("embedkit.json"))
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: embedkit.json: file is missing; the model folder is incomplete
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("file is missing", where=str(path), remedy="the model folder is incomplete") from None
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", where=str(path), remedy="check the folder") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"is not valid JSON ({error})", where=str(path), remedy="write the folder again") from None


def model_type(folder: Path) -> str:
    """The ``model_type`` of a transformers configuration; empty where there is none.

    Examples
    --------
    >>> Path("bert").mkdir()
    >>> write_json(Path("bert/config.json"), {"model_type": "bert"})
    >>> model_type(Path("bert"))
    'bert'
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return str(config.get("model_type") or "") if isinstance(config, dict) else ""


def inside(root: Path, path: str, listing: str = "modules.json") -> Path:
    """The folder of a module, refused when it is not inside the model folder.

    Raises
    ------
    UnsafeFileError
        When it does not.

    Examples
    --------
    >>> inside(Path("model"), "1_Pooling").as_posix()
    'model/1_Pooling'
    >>> inside(Path("model"), "../1_Pooling")
    Traceback (most recent call last):
    ...
    embedkit.errors.UnsafeFileError: model/modules.json: module path '../1_Pooling' leaves the model folder; ...
    """
    folder = (root / path).resolve()
    if not folder.is_relative_to(root.resolve()):
        raise UnsafeFileError(
            f"module path {path!r} leaves the model folder", where=str(root / listing), remedy="write the folder again"
        )
    return root / path


def member_folders(root: Path, count: int) -> Iterator[Path]:
    """The folders of `count` members, in their order.

    Examples
    --------
    >>> [folder.as_posix() for folder in member_folders(Path("both"), 2)]
    ['both/member-1', 'both/member-2']
    """
    for number in range(1, count + 1):
        yield root / f"member-{number}"


def write_folder(path: str | Path, write: Callable[[Path], None], *, ours: str | None, overwrite: bool) -> Path:
    """The path of a folder that `write` fills beside its place and that is put there in one step.

    `ours` names a file that marks a folder which may be replaced. File modes follow the umask.

    Examples
    --------
    >>> path = write_folder("out", lambda folder: write_json(folder / "a.json", 1), ours="a.json", overwrite=False)
    >>> [file.name for file in path.iterdir()]
    ['a.json']
    """
    target = Path(path).expanduser().absolute()
    if target.exists() and not overwrite and not _replaceable(target.resolve(), ours):
        raise ModelError(
            "exists and was not written by embedkit" if target.is_dir() else "is a file", where=str(path),
            remedy="choose another folder, or add --overwrite (overwrite=True in Python)",
        )  # fmt: skip
    with filling(target, "the model") as folder:
        write(folder)
    return target


def _replaceable(target: Path, ours: str | None) -> bool:
    if not target.is_dir():
        return False
    return not any(target.iterdir()) or (ours is not None and (target / ours).is_file())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value as an indented UTF-8 file.

    Examples
    --------
    >>> write_json(Path("spec.json"), {"prompts": {"query": "Frage: "}})
    >>> read_json(Path("spec.json"))
    {'prompts': {'query': 'Frage: '}}
    """
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
