"""Folders of images without a table: every file is a row, its sub-folder its class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from embedkit.data.images.pictures import is_image
from embedkit.data.schema.rows import Part, Record
from embedkit.data.sources.formats.samples import visible_files
from embedkit.data.sources.registry import FolderRequest, Layout, layouts
from embedkit.data.sources.splits import choose_split, split_name


def _image_names(folder: Path) -> list[str]:
    """Relative names of the images in a folder and its sub-folders by their endings; hidden ones are left out."""
    return [name for name in visible_files(folder) if is_image(name)]


def image_folder(request: FolderRequest) -> list[Part] | None:
    """The part that reads a folder of images, or None where there is no image.

    Columns: ``image``, the path relative to the folder; where every image lies in a sub-folder also ``label``, the
    number of the sub-folder among the sorted ones, and ``label_name``, its name with blanks for underscores. Folders
    that are named like splits (``train/cat/x.jpg``) are splits and no classes.

    Examples
    --------
    >>> Path("photos/black_cat").mkdir(parents=True)
    >>> Path("photos/black_cat/1.jpg").touch()
    >>> [part] = image_folder(FolderRequest(Path("photos"), None, None, print))
    >>> list(part.records())
    [(1, {'image': 'black_cat/1.jpg', 'label': 0, 'label_name': 'black cat'})]
    """
    names = _image_names(request.folder)
    if not names:
        return None
    tops = sorted({name.partition("/")[0] for name in names})
    if all("/" in name for name in names) and all(map(split_name, tops)):
        split = choose_split(tops, request.split, str(request.folder), request.prefer, request.guess)
        return [_part(request.folder / split)]
    if request.split is not None and (request.folder / request.split).is_dir():
        return [_part(request.folder / request.split)]
    return [_part(request.folder)]


def _part(folder: Path) -> Part:
    def records() -> Iterator[Record]:
        names = _image_names(folder)
        classes = sorted({name.partition("/")[0] for name in names if "/" in name})
        number = {name: place for place, name in enumerate(classes)}
        has_classes = all("/" in name for name in names)
        for count, name in enumerate(names, 1):
            row: dict[str, object] = {"image": name}
            if has_classes:
                top = name.partition("/")[0]
                row |= {"label": number[top], "label_name": top.replace("_", " ")}
            yield count, row

    return Part(str(folder), records, folder)


layouts.add("images")(Layout(30, image_folder))
