"""Folders written by ``datasets.save_to_disk``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from embedkit.data.schema.rows import Part
from embedkit.data.sources.registry import FolderRequest, Layout, layouts, readers
from embedkit.data.sources.splits import choose_split
from embedkit.errors import DataError


def saved(request: FolderRequest) -> list[Part] | None:
    """A part for each table of a saved data set, or None where the folder is no such data set.

    Raises
    ------
    DataError
        The folder is incomplete, holds several splits and none is asked for, or has no such split.

    Examples
    --------
    >>> from datasets import Dataset
    >>> Dataset.from_list([{"anchor": "a cat"}]).save_to_disk("cats")
    >>> [part] = saved(FolderRequest(Path("cats"), None, None, print))
    >>> list(part.records())
    [(1, {'anchor': 'a cat'})]
    """
    folder = request.folder
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits")
        names = [name for name in splits if isinstance(name, str)] if isinstance(splits, list) else []
        split = choose_split(names, request.split, str(folder), request.prefer, request.guess)
        return saved(FolderRequest(folder / split, None, None, request.tell))
    if not (folder / "state.json").is_file():
        return None
    files = _json(folder / "state.json").get("_data_files")
    if not isinstance(files, list) or not all(isinstance(entry, dict) for entry in files):
        raise DataError("state.json names no data files", where=str(folder), remedy="save the data set again")
    parts = []
    for entry in files:
        name = str(entry.get("filename"))
        if Path(name).name != name:
            raise DataError(
                f"state.json names a file outside the folder ({name!r})",
                where=str(folder),
                remedy="save the data set again",
            )
        parts.append(Part(str(folder / name), partial(readers["arrow"].read, folder / name), folder, folder / name))
    return parts


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("not readable JSON", where=str(path), remedy="save the data set again") from error
    if not isinstance(value, dict):
        raise DataError("not a JSON object", where=str(path), remedy="save the data set again")
    return value


layouts.add("saved")(Layout(0, saved))
