"""Which split a name of the user's, of a column, file or folder, means."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from embedkit.data.sources.splits import split_name


def same_split(name: str) -> str:
    """The split that a name stands for, "dev" and "validation" being one; another name as it is.

    Examples
    --------
    >>> same_split("dev"), same_split("fold-3")
    ('validation', 'fold-3')
    """
    return split_name(name) or name


def choose(split: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that mean `split`, "dev" and "validation" being one.

    Examples
    --------
    >>> choose("dev", ["train", "validation"])
    ['validation']
    """
    return [name for name in names if same_split(name) == same_split(split)]


def split_folders(folder: Path) -> dict[Path, str]:
    """The sub-folders of a folder and their names, where all of them are called like splits; else none.

    Examples
    --------
    >>> split_folders(Path("no such folder"))
    {}
    """
    folders = [path for path in sorted(folder.glob("*")) if path.is_dir() and not path.name.startswith(".")]
    return {path: path.name for path in folders} if all(split_name(path.name) for path in folders) else {}
