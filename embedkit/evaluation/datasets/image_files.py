"""Folders of images, and tables with paths of images, as tables for evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from embedkit.data.schema.roles import IMAGE_NAMES
from embedkit.errors import DataError
from embedkit.evaluation.datasets.splits import split_folders

TEXT_COLUMNS = ("caption", "text")


def read_folder(folder: Path) -> tuple[dict[str, list[Any]], list[int]]:
    """Columns and row numbers of a folder of images.

    A folder with a table (csv, tsv, jsonl, parquet, with a column ``image`` or ``file_name``) has the table's rows, see
    `image_rows`. A folder without a table has one row an image, with ``label`` and ``label_name`` where the images lie
    in sub-folders; sub-folders that are called train, dev, test and the like are splits.

    Raises
    ------
    DataError
        There are no images, or a row cannot be read.

    Examples
    --------
    >>> from PIL import Image
    >>> for name in ("cat", "dog"):
    ...     Path("pets", name).mkdir(parents=True)
    ...     Image.new("RGB", (8, 8)).save(f"pets/{name}/1.png")
    >>> read_folder(Path("pets"))[0]["label_name"]
    ['cat', 'dog']
    """
    from embedkit.data.schema.rows import BadRow
    from embedkit.data.sources.sources import find_parts

    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    places: dict[Path, str | None] = {**split_folders(folder)} or {folder: None}
    for place, split in places.items():
        for part in find_parts(str(place)):
            for number, values in part.records():
                if isinstance(values, BadRow):
                    raise values.refused()
                row = dict(values) if split is None else {**values, "split": values.get("split", split)}
                rows.append(_beside(row, part.folder or place, folder))
                numbers.append(number)
    return image_rows(rows, numbers, str(folder))


def image_rows(
    rows: Sequence[dict[str, Any]], numbers: Sequence[int], where: str
) -> tuple[dict[str, list[Any]], list[int]]:
    """Columns and numbers of rows with images: ``image``, and ``captions`` as a list.

    Rows of the same image, which is the same path or the same bytes, become one row with all their captions.

    Raises
    ------
    DataError
        No row has an image.

    Examples
    --------
    >>> rows = [{"file_name": "a.jpg", "caption": "a cat"}, {"file_name": "a.jpg", "caption": "a pet"}]
    >>> image_rows(rows, [1, 2], "table.csv")
    ({'image': ['a.jpg'], 'captions': [['a cat', 'a pet']]}, [1])
    """
    images: list[dict[str, Any]] = []
    first_numbers: list[int] = []
    by_key: dict[Any, dict[str, Any]] = {}
    for number, values in zip(numbers, rows, strict=True):
        row = _named(values)
        key = _image_key(row.get("image"), row.get("split"))
        same = row if key is None else by_key.setdefault(key, row)
        if same is row:
            images.append(row)
            first_numbers.append(number)
        elif "captions" in row and "captions" in same:
            same["captions"] = same["captions"] + row["captions"]
    names = list(dict.fromkeys(name for row in images for name in row))
    if "image" not in names:
        raise DataError("no column of images", where=where, remedy=f"name one {' or '.join(IMAGE_NAMES[:3])}")
    return {name: [row.get(name) for row in images] for name in names}, first_numbers


def image_column(columns: Iterable[str]) -> str | None:
    """The column of images, by its name.

    Examples
    --------
    >>> image_column(["caption", "file_name"])
    'file_name'
    """
    names = set(columns)
    return next((name for name in IMAGE_NAMES if name in names), None)


def _beside(row: dict[str, Any], home: Path, folder: Path) -> dict[str, Any]:
    """The row with the path of its image relative to `folder`, the table being in `home`."""
    column = image_column(row)
    cell = row.get(column) if column is not None else None
    if column is not None and isinstance(cell, str) and cell:
        row[column] = str(home.relative_to(folder) / cell)
    return row


def _named(values: dict[str, Any]) -> dict[str, Any]:
    """The row with its image as ``image`` and its caption or captions as the list ``captions``."""
    column = image_column(values)
    row = {key: cell for key, cell in values.items() if key != column}
    if column is not None:
        row["image"] = values[column]
    text = next((name for name in TEXT_COLUMNS if name in row), None)
    captions = row.get("captions", row.get(text) if text is not None else None)
    if isinstance(captions, list) or "captions" not in row:
        cells = captions if isinstance(captions, list) else [captions]
        if text is not None or "captions" in row:
            row["captions"] = cells
            if text is not None:
                del row[text]
    return row


def _image_key(cell: Any, split: Any) -> Any:
    """What identifies an image; None for a cell that is no image."""
    content = cell.get("bytes") or cell.get("path") if isinstance(cell, dict) else cell
    if isinstance(content, bytes):
        return hashlib.blake2b(content, digest_size=16).digest(), split
    return (content, split) if isinstance(content, str) and content else None


def holds_images(folder: Path) -> bool:
    """Whether there is an image, by its ending, anywhere in a folder.

    Examples
    --------
    >>> Path("1.png").touch()
    >>> holds_images(Path("."))
    True
    """
    from embedkit.data.images.pictures import SUFFIXES

    return any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))


def image_content(cell: Any, folder: Path) -> bytes | None:
    """The bytes of an image cell: bytes, the hub's ``{"bytes": ..}``, or a path in `folder` that `image_path` takes;
    None for others.

    Examples
    --------
    >>> _ = Path("1.png").write_bytes(b"not looked at")
    >>> [image_content(cell, Path(".")) for cell in ("1.png", {"bytes": b"png"}, "2.png")]
    [b'not looked at', b'png', None]
    """
    from embedkit.data.images.paths import image_path
    from embedkit.data.schema.rows import BadRow

    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, str) or not content:
        return content if isinstance(content, bytes) and content else None
    try:
        return Path(image_path(content, folder)).read_bytes()
    except (BadRow, OSError, ValueError):  # not there or outside, no permission, NUL
        return None
