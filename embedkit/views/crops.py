"""Lists of image views: what a recipe says of each, with how many there are, how large, and who sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedkit.config.settings import Count, Rate, check
from embedkit.errors import RecipeError
from embedkit.views.image import Transform

MOST = 16
"""Views of a row that objectives can tell apart."""
_OWN = ("size", "count", "teacher", "patch_dropout")


@dataclass(frozen=True)
class Crop:
    """One view of an image.

    Attributes
    ----------
    transform : Transform or None
        Its random changes; None for the model's preprocessing alone.
    size : int or None
        Height and width; those of the model when None.
    teacher : bool
        Whether a guide sees it.
    patch_dropout : float
        Share of its patches that the trained encoder does not see; a guide sees all.

    Examples
    --------
    >>> crop = Crop(Transform.of("simclr"), size=32, teacher=False)
    >>> crop.side(64)  # pixels that its picture must keep
    64
    """

    transform: Transform | None
    size: int | None = None
    teacher: bool = True
    patch_dropout: float = 0.0

    def side(self, side: int) -> int:
        """Pixels that the shorter side of a picture must keep, where the model's own size needs `side`."""
        margin = 1.0 if self.transform is None else self.transform.margin
        return -int(-(self.size or side) * margin // 1)


def named(crops: Sequence[Crop]) -> Iterator[tuple[str, Crop]]:
    """The names that objectives know views by: "anchor", "positive", "view3", "view4" ...

    Examples
    --------
    >>> [name for name, _ in named([Crop(None)] * 4)]
    ['anchor', 'positive', 'view3', 'view4']
    """
    for number, crop in enumerate(crops):
        yield ("anchor", "positive")[number] if number < 2 else f"view{number + 1}", crop


def crops_of(entries: Sequence[str | Mapping[str, Any]], where: str = "method.views") -> list[Crop]:
    """The views of a recipe's list, each entry as often as its ``count`` says.

    An entry is the name of a transform, or settings of one (`Transform.of`) with ``size``, ``count``, ``teacher`` and
    ``patch_dropout``.
    A guide sees the views that are as large as the first one, where ``teacher`` does not say otherwise.

    Raises
    ------
    RecipeError
        An unknown setting, fewer than two views or more than 16.

    Examples
    --------
    >>> crops = crops_of([{"name": "simclr", "size": 64, "count": 2}, {"crop": [0.05, 0.14], "size": 32, "count": 6}])
    >>> [(crop.size, crop.teacher) for crop in crops[1:4]]
    [(64, True), (32, False), (32, False)]
    >>> crops_of(["simclr"])
    Traceback (most recent call last):
    embedkit.errors.RecipeError: method.views: 1 view has nothing to be compared with; give 2 to 16, see count
    """
    crops: list[Crop] = []
    for number, entry in enumerate(entries):
        crop, count = _read(entry, f"{where}.{number}", crops[0] if crops else None)
        crops += [crop] * count
    if not 2 <= len(crops) <= MOST:
        what = "1 view has nothing to be compared with" if len(crops) == 1 else f"{len(crops)} views"
        raise RecipeError(what, where=where, remedy=f"give 2 to {MOST}, see count")
    return crops


def crop_of(entry: str | Mapping[str, Any] | None, where: str) -> Crop:
    """A view with a name of its own: an entry as in `crops_of` with ``size`` and ``teacher``; None is the model's
    preprocessing alone. A guide sees views of the model's own size, where ``teacher`` does not say otherwise.

    Raises
    ------
    RecipeError
        An unknown setting.

    Examples
    --------
    >>> crop_of({"name": "simclr", "size": 32}, "method.images.local").teacher
    False
    """
    for key in ("count", "patch_dropout"):
        if isinstance(entry, Mapping) and key in entry:
            raise RecipeError(f"unknown setting {key!r}", where=f"{where}.{key}", remedy="it is one of image-views")
    return _read("none" if entry is None else entry, where, Crop(None))[0]


def _read(entry: str | Mapping[str, Any], place: str, first: Crop | None) -> tuple[Crop, int]:
    """The view of an entry and how often it is there; `first` is a view that a guide sees."""
    settings = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
    own = {key: settings.pop(key) for key in _OWN if key in settings}
    own = check(_entry, own, place)
    name = settings.get("name")
    if name == "none" and len(settings) > 1:
        raise RecipeError("has settings of no transform", where=place, remedy="leave name out")
    transform = Transform.of("none" if name == "none" else settings, place)
    size, teacher = own.get("size"), own.get("teacher")
    sees = first is None or size == first.size
    crop = Crop(transform, size, sees if teacher is None else teacher, own.get("patch_dropout", 0.0))
    return crop, own.get("count", 1)


def _entry(
    size: Count | None = None, count: Count = 1, teacher: bool | None = None, patch_dropout: Rate = 0.0
) -> None:  # fmt: skip
    """The settings of an entry beside those of its transform."""
