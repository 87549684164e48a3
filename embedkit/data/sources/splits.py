"""Names of splits: which words they are, which mean the same, and which split is read."""

from __future__ import annotations

import re
from collections.abc import Callable

from embedkit.errors import DataError, nearest

_SAME = {"training": "train", "testing": "test", "val": "validation", "valid": "validation", "dev": "validation",
         "eval": "validation", "evaluation": "validation"}  # fmt: skip
_NAMES = {"train", "test", "validation"}


def split_name(word: str) -> str | None:
    """The split that a word stands for, or None.

    Examples
    --------
    >>> split_name("Dev"), split_name("training"), split_name("cats")
    ('validation', 'train', None)
    """
    low = word.lower()
    name = _SAME.get(low, low)
    return name if name in _NAMES else None


def split_of_stem(stem: str) -> str | None:
    """The split that a file's name implies: a word between ``_``, ``-``, ``.`` and digits; None for none or two.

    Examples
    --------
    >>> split_of_stem("train-00000-of-00002"), split_of_stem("faq_dev"), split_of_stem("training_of_dogs_test")
    ('train', 'validation', None)
    """
    words = [word for word in re.split(r"[^A-Za-z]+", stem) if word]
    names = {name for name in map(split_name, words) if name}
    return names.pop() if len(names) == 1 else None


def choose_split(
    names: list[str],
    split: str | None,
    where: str,
    prefer: str | None = None,
    guess: Callable[[str, str], None] | None = None,
) -> str:
    """The split to read: the one asked for, the only one, or `prefer`, which is passed to `guess`.

    Raises
    ------
    DataError
        That leaves a choice, or there is no such split.

    Examples
    --------
    >>> choose_split(["train", "dev"], "validation", "faq")
    'dev'
    >>> choose_split(["train", "dev"], None, "faq", prefer="train", guess=print)
    of its splits dev, train only train is read split
    'train'
    """
    same = {name: split_name(name) or name for name in names}
    if split is None and len(names) == 1:
        return names[0]
    if split is None:
        default = next((name for name in names if prefer is not None and same[name] == prefer), None)
        choices = ", ".join(sorted(names)) or "none"
        if default is None:
            raise DataError(f"it has the splits {choices}", where=where, remedy="choose one with 'split'")
        if guess is not None:
            guess(f"of its splits {choices} only {default} is read", "split")
        return default
    if split in names:
        return split
    equal = [name for name in names if same[name] == (split_name(split) or split)]
    if len(equal) != 1:
        raise DataError(f"it has no split {split!r}", where=where, remedy=nearest(split, names))
    return equal[0]
