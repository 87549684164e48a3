"""Names of splits: which of them mean the same, and which split a file or folder is by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_NAMES = {
    "train": "train", "training": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev",
    "test": "test", "testing": "test",
}  # fmt: skip
_WORD = re.compile(rf"(?:^|[_.\- ])({'|'.join(sorted(_NAMES, key=len, reverse=True))})(?=[_.\- \d]|$)", re.IGNORECASE)


def same_split(name: str) -> str:
    """The split in embedkit's words: "train", "dev" or "test"; another name as it is.

    Examples
    --------
    >>> same_split("validation"), same_split("fold-3")
    ('dev', 'fold-3')
    """
    return _NAMES.get(name.lower(), name)


def split_of(path: Path) -> str | None:
    """The split that a file's or folder's name tells, a word of it being enough; None where it tells none.

    Examples
    --------
    >>> split_of(Path("faq_dev.csv")), split_of(Path("trained.csv"))
    ('dev', None)
    """
    word = _WORD.search(path.name)
    return None if word is None else same_split(word[1])


def choose(asked: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that mean the split `asked`.

    Examples
    --------
    >>> choose("dev", ["train", "validation"])
    ['validation']
    """
    return [name for name in names if same_split(name) == same_split(asked)]


def split_folders(folder: Path) -> dict[Path, str]:
    """The sub-folders of a folder and the split that each is, where all of them have names of splits; else none.

    Examples
    --------
    >>> split_folders(Path("no such folder"))
    {}
    """
    folders = [path for path in sorted(folder.glob("*")) if path.is_dir() and not path.name.startswith(".")]
    splits = {path: _NAMES[path.name.lower()] for path in folders if path.name.lower() in _NAMES}
    return splits if len(splits) == len(folders) else {}
