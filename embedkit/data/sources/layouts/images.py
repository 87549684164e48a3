"""Folders of images without a table: every file is a row, its sub-folder its class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from embedkit.data.images.pictures import is_image
from embedkit.data.schema.rows import Part, Record
from embedkit.data.sources.registry import FolderRequest, Layout, layouts
from embedkit.data.sources.samples import hidden
from embedkit.data.sources.splits import choose_split, split_name


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and its sub-folders by their endings, sorted; hidden ones are left out."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if is_image(path.name) and not any(map(hidden, path.relative_to(folder).parts)) and path.is_file()
    ]


def image_folder(request: FolderRequest) -> list[Part] | None:
    """Rows of a folder of images, or None when there is no image.

    Columns: ``image``, the path relative to the folder; where every image lies in a sub-folder also ``label``, the
    number of the sub-folder among the sorted ones, and ``label_name``, its name with blanks for underscores. Folders
    that are named like splits (``train/cat/x.jpg``) are splits and no classes.
    """
    files = image_files(request.folder)
    if not files:
        return None
    tops = sorted({path.relative_to(request.folder).parts[0] for path in files})
    inside = all(len(path.relative_to(request.folder).parts) > 1 for path in files)
    if inside and all(split_name(top) for top in tops):
        chosen = choose_split(tops, request.split, str(request.folder), request.prefer, request.guess)
        return [_part(request.folder / chosen)]
    if request.split is not None and (request.folder / request.split).is_dir():
        return [_part(request.folder / request.split)]
    return [_part(request.folder)]


def _part(folder: Path) -> Part:
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


layouts.add("images")(Layout(30, image_folder))
