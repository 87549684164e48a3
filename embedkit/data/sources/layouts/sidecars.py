"""Folders of images with a text file each: ``001.jpg`` beside ``001.txt``, and maybe ``001.json``.

That is also how img2dataset writes files: ``00000/000000001.jpg``, ``.txt`` and ``.json``, with tables of addresses and
counts around them, which are no data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from embedkit.data.images.pictures import TEXT_ENDINGS
from embedkit.data.schema.rows import BadRow, Part, Record
from embedkit.data.sources.layouts.images import image_files
from embedkit.data.sources.registry import FolderRequest, Layout, layouts
from embedkit.data.sources.samples import sample_cells
from embedkit.data.sources.splits import choose_split, split_name

_BESIDE = (*(f".{ending}" for ending in TEXT_ENDINGS), ".json")


def sidecars(request: FolderRequest) -> list[Part] | None:
    """Rows of images and the texts beside them, or None where fewer than half of the images have one.

    Columns are those of a shard's sample; ``image`` is the path relative to the folder. Images without a text are rows
    without one, and bad ones where it is needed.
    """
    images = image_files(request.folder)
    beside = [path for path in images if any(path.with_suffix(ending).is_file() for ending in _BESIDE)]
    if not images or 2 * len(beside) < len(images):
        return None
    tops: dict[str, list[Path]] = defaultdict(list)
    for path in images:
        parts = path.relative_to(request.folder).parts
        tops[parts[0] if len(parts) > 1 and split_name(parts[0]) else ""].append(path)
    chosen = images
    if "" not in tops:
        chosen = tops[choose_split(list(tops), request.split, str(request.folder), request.prefer, request.guess)]
    request.guess("images with a text file each, of the same name", "format")
    return [_part(request.folder, chosen)]


def _part(folder: Path, images: list[Path]) -> Part:
    def records() -> Iterator[Record]:
        for number, path in enumerate(images, 1):
            files = ((ending, path.with_suffix(f".{ending}")) for ending in (*TEXT_ENDINGS, "json"))
            try:
                cells = sample_cells((ending, file.name, file.read_bytes) for ending, file in files if file.is_file())
            except BadRow as bad:
                yield number, bad.at(f"{folder}:{number} ({path.name})")
                continue
            yield number, {"image": path.relative_to(folder).as_posix()} | cells

    return Part(str(folder), records, folder)


layouts.add("sidecars")(Layout(10, sidecars))
