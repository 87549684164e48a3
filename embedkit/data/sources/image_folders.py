"""Folders of images without a table: every file is a row, its sub-folder its class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from embedkit.data.images.pictures import SUFFIXES
from embedkit.data.schema.rows import Part, Record


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and its sub-folders by their endings, sorted; hidden ones are left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(piece.startswith((".", "_")) for piece in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            found.append(path)
    return found


def image_folder(folder: Path) -> Part:
    """Rows of a folder of images.

    Columns: ``image``, the path relative to the folder; where every image lies in a sub-folder also ``label``, the
    number of the sub-folder among the sorted ones, and ``label_name``, its name with blanks for underscores.
    """

    def records() -> Iterator[Record]:
        files = [path.relative_to(folder) for path in image_files(folder)]
        classes = sorted({path.parts[0] for path in files if len(path.parts) > 1})
        number = {name: place for place, name in enumerate(classes)}
        labelled = all(len(path.parts) > 1 for path in files)
        for count, path in enumerate(files, 1):
            row: dict[str, object] = {"image": path.as_posix()}
            if labelled:
                row |= {"label": number[path.parts[0]], "label_name": path.parts[0].replace("_", " ")}
            yield count, row

    return Part(str(folder), records, folder)
