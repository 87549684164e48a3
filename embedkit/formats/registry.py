"""Readers and writers of model folders, one of each for a library, found by name.

A library is a folder of this one with a module ``reader``, a module ``writer``, or both; nothing else lists it.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.errors import ModelError
from embedkit.formats.folder import FolderPlan
from embedkit.registry import Registry

if TYPE_CHECKING:
    from embedkit.models.base import Model
    from embedkit.models.heads.classifier import TargetHead
    from embedkit.models.modules.dual import DualEncoder


_DEPTH, _MOST_FOLDERS, _NAMED = 4, 300, 5
"""Levels and folders in which models are looked for, and how many of them a line names."""


class FolderReader(ABC):
    """Reads the model folders of one library. Neither the module of a reader nor `plan` imports torch.

    Class attributes
    ----------------
    name : str
        Name of the library.
    mark : str
        A file that marks a folder as this library's.
    rank : int
        Of several readers whose mark a folder holds, the one with the lowest rank reads it.
    checks_weights : bool
        Whether weights stand as ``*.safetensors`` in the folders of the plan, and are checked before they are read.

    Examples
    --------
    >>> readers["peft"].mark, readers["sentence-transformers"].mark
    ('adapter_config.json', 'modules.json')
    """

    name: ClassVar[str]
    mark: ClassVar[str]
    rank: ClassVar[int]
    checks_weights: ClassVar[bool] = True

    def reads(self, root: Path) -> bool:
        """Whether a folder is this library's."""
        return (root / self.mark).is_file()

    @abstractmethod
    def plan(self, root: Path) -> FolderPlan:
        """The plan of a folder, read without weights.

        Raises
        ------
        ModelError
            The folder has parts that embedkit does not know.
        """

    def plan_of_route(self, root: Path, route: str) -> FolderPlan:
        """The plan of one route of a folder.

        Raises
        ------
        ModelError
            The library's folders have no routes, or this one has none of that name.
        """
        raise ModelError("has no routes", where=str(root), remedy="leave route out")

    def dual(self, plan: FolderPlan, *, allow_pickle: bool = False) -> DualEncoder:
        """The dual encoder of a plan of kind "dual", on the CPU in float32.

        Raises
        ------
        ModelError
            The library has none, or the weights do not fit.
        """
        raise ModelError(f"{self.name} has no dual encoders", where=str(plan.root), remedy="give a CLIP folder")

    def classifiers(self, root: Path) -> dict[str, TargetHead]:
        """The heads that are kept with a model, by the name of their target.

        Raises
        ------
        ModelError
            Their files are damaged, or do not belong together.
        """
        from embedkit.formats.embedkit.classifiers import read_classifiers

        return read_classifiers(root)

    def combined(self, plan: FolderPlan) -> Model:
        """The model of a plan with members, on the CPU in float32.

        Raises
        ------
        ModelError
            The library has none, or the members do not fit.
        """
        raise ModelError(f"{self.name} has no models of models", where=str(plan.root), remedy="give one of its models")


readers: Registry[type[FolderReader]] = Registry("model format", "embedkit.formats.*.reader")


def reader_of(root: Path) -> FolderReader:
    """The reader of a folder.

    Raises
    ------
    ModelError
        No reader knows it.

    Examples
    --------
    >>> Path("model").mkdir()
    >>> Path("model/modules.json").touch()
    >>> reader_of(Path("model")).name
    'sentence-transformers'
    """
    ranked = sorted((reader() for _, reader in readers.items()), key=lambda reader: reader.rank)
    reader = next((reader for reader in ranked if reader.reads(root)), None)
    if reader is None and (below := models_below(root)):
        raise not_itself(root, below)
    if reader is None:
        *others, last = (reader.mark for reader in reversed(ranked))
        contents = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
        raise ModelError(
            f"not a model folder: no {', '.join(others)} or {last} (it holds {contents})", where=str(root),
            remedy="give a folder written by embedkit, sentence-transformers or transformers",
        )  # fmt: skip
    return reader


def is_model(root: Path) -> bool:
    """Whether some library's mark stands in a folder.

    Examples
    --------
    >>> is_model(Path("."))
    False
    """
    return any(reader().reads(root) for _, reader in readers.items())


def models_below(root: Path) -> list[Path]:
    """The model folders inside a folder, up to four levels deep; of models within models the outer one.

    At most some hundred folders are looked at.

    Examples
    --------
    >>> Path("cache/models--a--b/snapshots/0123").mkdir(parents=True)
    >>> Path("cache/models--a--b/snapshots/0123/config.json").touch()
    >>> [path.as_posix() for path in models_below(Path("cache"))]
    ['cache/models--a--b/snapshots/0123']
    """
    models: list[Path] = []
    level, left = [root], _MOST_FOLDERS
    for _ in range(_DEPTH):
        inner: list[Path] = []
        for folder in level:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:  # one that may not be read
                inner += sorted(folder / e.name for e in entries if not e.name.startswith(".") and e.is_dir())
        level = []
        for folder in inner[:left]:
            (models if is_model(folder) else level).append(folder)
        left -= len(inner)
        if left <= 0:
            break
    return models


def not_itself(root: Path, below: Sequence[Path]) -> ModelError:
    """The error of a folder that is no model and has models inside.

    Examples
    --------
    >>> print(not_itself(Path("runs"), [Path("runs/faq/model")]))
    runs: not a model folder; a model lies inside it; give runs/faq/model
    """
    names = ", ".join(map(str, below[:_NAMED])) + (f" and {len(below) - _NAMED} more" if len(below) > _NAMED else "")
    if len(below) == 1:
        return ModelError("not a model folder; a model lies inside it", where=str(root), remedy=f"give {names}")
    return ModelError(
        f"not a model folder; {len(below)} models lie inside it", where=str(root), remedy=f"give one of {names}"
    )


@dataclass(frozen=True)
class FolderWriter:
    """Writes the folders of one format.

    Attributes
    ----------
    kinds : frozenset of str
        Kinds of models that the format can hold.
    write : callable
        ``write(model, folder, samples)`` fills an empty folder and returns its report; `samples`
        images and texts are compared where the written folder is read back.
    check : callable
        Refuses, before a model is loaded, where a package is missing.

    Examples
    --------
    >>> sorted(writers["timm"].kinds), sorted(writers["clip"].kinds)
    (['image'], ['dual'])
    """

    kinds: frozenset[str]
    write: Callable[[Any, Path, int], dict[str, Any]]
    check: Callable[[], None] = lambda: None

    def can_write(self, model: Model) -> bool:
        """Whether the format can hold models of this kind."""
        return model.kind in self.kinds


writers: Registry[FolderWriter] = Registry("export format", "embedkit.formats.*.writer")
TEXT_KINDS = frozenset({"text", "clip-text", "static"})
DUAL_KINDS = frozenset({"dual"})
IMAGE_KINDS = frozenset({"image"})
