"""JSON files: one array of objects, JSON lines under the wrong ending, or COCO's captions."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from embedkit.data.schema.rows import BadRow, Record
from embedkit.data.sources.files import check_unpacked, open_bytes, text_lines
from embedkit.data.sources.formats.json_objects import COLLECTION, check_escapes, unique
from embedkit.data.sources.formats.jsonl import read_jsonl
from embedkit.data.sources.registry import Format, readers
from embedkit.data.sources.remote import Location
from embedkit.errors import DataError

MAX_BYTES = 2**31
"""Largest file that is read at once; JSON lines have no limit."""

_REMEDY = "write a list of objects, or one object a line as .jsonl"


def read_json(path: Location) -> Iterator[Record]:
    """The objects of an array, numbered from 1; lines of objects; or the images of COCO's file or of Karpathy's splits,
    each with its ``captions``.

    Raises
    ------
    DataError
        It is not JSON, larger than `MAX_BYTES`, or holds something else.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("faq.json").write_text('[{"anchor": "a cat"}, {"anchor": "a dog"}]')
    >>> list(read_json(Path("faq.json")))
    [(1, {'anchor': 'a cat'}), (2, {'anchor': 'a dog'})]
    """
    if _is_lines(path):
        yield from read_jsonl(path)
        return
    value = _whole(path)
    if isinstance(value, dict) and {"images", "annotations"} <= set(value):
        value = _coco(value, path)
    elif isinstance(value, dict) and _is_karpathy(value.get("images")):
        value = _karpathy(value["images"], path)
    if not isinstance(value, list):
        remedy = COLLECTION if isinstance(value, dict) and {"queries", "corpus"} <= set(value) else _REMEDY
        raise DataError(f"a JSON {type(value).__name__}, not a list of objects", where=str(path), remedy=remedy)
    for number, row in enumerate(value, 1):
        place = f"{path}:{number}"
        if not isinstance(row, dict):
            what = f"a JSON {type(row).__name__}, not an object"
            yield number, BadRow("bad JSON", what, where=place, remedy="write objects in the list")
            continue
        try:
            check_escapes(row)
        except BadRow as bad:
            yield number, bad.at(place)
        else:
            yield number, row


def _is_lines(path: Location) -> bool:
    """Whether the first two lines with content are objects, each whole."""
    lines = (line for _, line in text_lines(path) if isinstance(line, BadRow) or line.strip())
    first = list(itertools.islice(lines, 2))
    return len(first) == 2 and all(isinstance(line, str) and _is_object(line) for line in first)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _whole(path: Location) -> Any:
    with open_bytes(path) as handle:
        try:
            content = handle.read(MAX_BYTES + 1)
        except (OSError, EOFError) as error:
            raise DataError(f"cannot be read ({error})", where=str(path), remedy="copy it again") from error
        check_unpacked(handle, path, len(content))
    if len(content) > MAX_BYTES:
        raise DataError(f"larger than {MAX_BYTES >> 30} GiB", where=str(path), remedy="write it as .jsonl")
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=unique)
    except BadRow as bad:
        raise DataError(bad.what, where=str(path), remedy=bad.remedy) from bad
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is not UTF-8", where=str(path), remedy="save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", where=str(path), remedy=_REMEDY) from error


def _coco(value: dict[str, Any], path: Location) -> list[dict[str, Any]]:
    """A row an image: ``file_name`` and the list of its ``captions``, in the order of the images."""
    captions: dict[Any, list[Any]] = defaultdict(list)
    try:
        for annotation in value["annotations"]:
            captions[annotation["image_id"]].append(annotation["caption"])
        rows = [
            {"file_name": image["file_name"], "id": image["id"], "captions": captions[image["id"]]}
            for image in value["images"]
        ]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"images and annotations without {error}, so no captions in COCO's form", where=str(path),
            remedy="images have id and file_name, annotations image_id and caption",
        ) from error  # fmt: skip
    return rows


def _is_karpathy(images: Any) -> bool:
    return isinstance(images, list) and bool(images) and isinstance(images[0], dict) and "sentences" in images[0]


def _karpathy(images: list[Any], path: Location) -> list[dict[str, Any]]:
    """A row an image of the files of Karpathy & Fei-Fei 2015 (``dataset_coco.json``, ``dataset_flickr30k.json``): the
    ``file_name`` behind its folder, the list of its ``captions``, and its ``split`` (train, restval, val, test)."""
    try:
        return [
            {
                "file_name": f"{image['filepath']}/{image['filename']}" if image.get("filepath") else image["filename"],
                "captions": [sentence["raw"] for sentence in image["sentences"]], "split": image["split"],
            }
            for image in images
        ]  # fmt: skip
    except (KeyError, TypeError) as error:
        raise DataError(
            f"images with sentences but without {error}, so no captions in Karpathy's form", where=str(path),
            remedy="images have filename, split and sentences, each with raw",
        ) from error  # fmt: skip


readers.add("json")(Format((".json",), read_json, in_folders=False))
