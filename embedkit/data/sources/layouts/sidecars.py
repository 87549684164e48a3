"""Folders of images with a text file each: ``001.jpg`` beside ``001.txt``, and maybe ``001.json``.

That is also how img2dataset writes files: ``00000/000000001.jpg``, ``.txt`` and ``.json``, with tables of addresses and
counts around them, which are no data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

from embedkit.data.images.pictures import TEXT_ENDINGS, is_image
from embedkit.data.schema.rows import BadRow, Part, Record
from embedkit.data.sources.formats.samples import sample_cells, visible_files
from embedkit.data.sources.registry import FolderRequest, Layout, layouts
from embedkit.data.sources.splits import choose_split, split_name

_BESIDE = (*TEXT_ENDINGS, "json")


def sidecars(request: FolderRequest) -> list[Part] | None:
    """The part that reads images and the texts beside them, or None where fewer than half of the images have one.

    Columns are those of a shard's sample; ``image`` is the path relative to the folder. Images without a text are rows
    without one, and bad ones where it is needed.

    Examples
    --------
    >>> Path("photos").mkdir()
    >>> _ = Path("photos/1.jpg").write_bytes(b"..."), Path("photos/1.txt").write_text("a cat")
    >>> [part] = sidecars(FolderRequest(Path("photos"), None, None, print))
    photos: images with a text file each, of the same name (set 'format' to change that)
    >>> list(part.records())
    [(1, {'image': '1.jpg', 'text': 'a cat'})]
    """
    names = visible_files(request.folder)
    every = set(names)
    beside = {name: _texts(name, every) for name in names if is_image(name)}
    if not beside or 2 * sum(map(bool, beside.values())) < len(beside):
        return None
    tops: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for name, texts in beside.items():
        top = name.partition("/")[0]
        tops[top if "/" in name and split_name(top) else ""][name] = texts
    images = beside
    if "" not in tops:
        images = tops[choose_split(list(tops), request.split, str(request.folder), request.prefer, request.guess)]
    request.guess("images with a text file each, of the same name", "format")
    return [_part(request.folder, images)]


def _texts(image: str, every: Set[str]) -> list[str]:
    """The names of the texts beside an image."""
    stem = image.rpartition(".")[0]
    return [name for ending in _BESIDE if (name := f"{stem}.{ending}") in every]


def _part(folder: Path, images: Mapping[str, list[str]]) -> Part:
    def records() -> Iterator[Record]:
        for number, (image, texts) in enumerate(images.items(), 1):
            files = ((name.rpartition(".")[2], name, (folder / name).read_bytes) for name in texts)
            try:
                cells = sample_cells(files)
            except BadRow as bad:
                yield number, bad.at(f"{folder}:{number} ({image})")
                continue
            yield number, {"image": image} | cells

    return Part(str(folder), records, folder)


layouts.add("sidecars")(Layout(10, sidecars))
