"""Folders of images, and tables with paths of images, as tables for evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedkit.data.schema.roles import IMAGE_NAMES
from embedkit.errors import DataError

TEXT_COLUMNS = ("caption", "text")


def read_folder(folder: Path) -> tuple[dict[str, list[Any]], list[int]]:
    """Columns and row numbers of a folder of images.

    A folder with a table (csv, tsv, jsonl, parquet, with a column ``image`` or ``file_name``) has the table's rows;
    captions of the same image, one a row in a column ``caption`` or ``text``, are joined to one list ``captions``. A
    folder without a table has one row an image, with ``label`` and ``label_name`` where the images lie in sub-folders.

    Raises
    ------
    DataError
        There are no images, or a row cannot be read.
    """
    from embedkit.data.schema.rows import BadRow
    from embedkit.data.sources.sources import find_parts

    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    known: dict[str, dict[str, Any]] = {}
    for part in find_parts(str(folder)):
        for number, values in part.records():
            if isinstance(values, BadRow):
                raise values
            row = _row(values, part.folder or folder, folder)
            image = row.get("image")
            same = known.setdefault(image, row) if isinstance(image, str) else row
            if same is row:
                rows.append(row)
                numbers.append(number)
            elif "captions" in row and "captions" in same:
                same["captions"] += row["captions"]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if "image" not in names:
        raise DataError("no column of images", where=str(folder), remedy=f"name one {' or '.join(IMAGE_NAMES[:3])}")
    return {name: [row.get(name) for row in rows] for name in names}, numbers


def _row(values: dict[str, Any], home: Path, folder: Path) -> dict[str, Any]:
    row = dict(values)
    image = next((name for name in IMAGE_NAMES if name in row), None)
    if image is not None:
        cell = row.pop(image)
        row["image"] = str(home.relative_to(folder) / cell) if isinstance(cell, str) and cell else cell
    text = next((name for name in TEXT_COLUMNS if name in row), None)
    if "captions" not in row and text is not None:
        row["captions"] = [row[text]]
    return row


def holds_images(folder: Path) -> bool:
    """Whether there is an image, by its ending, anywhere in a folder."""
    from embedkit.data.images.pictures import SUFFIXES

    return any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))


def image_content(cell: Any, folder: Path) -> bytes | None:
    """The bytes of an image cell: bytes, the hub's ``{"bytes": ..}``, or a path in `folder` that `image_path` takes;
    None for others."""
    from embedkit.data.schema.rows import BadRow
    from embedkit.data.sources.data_source import image_path

    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, str) or not content:
        return content if isinstance(content, bytes) and content else None
    try:
        return Path(image_path(content, folder)).read_bytes()
    except (BadRow, OSError, ValueError):  # not there or outside, no permission, NUL
        return None
