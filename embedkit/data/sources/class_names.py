"""Classes of tables that ``datasets`` wrote: a cell holds a number, the file's features its name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from embedkit.data.sources.files import seekable
from embedkit.data.sources.remote import Location


class ClassNumber(int):
    """The number of a class, with the name that it stands for in its file.

    Examples
    --------
    >>> cell = ClassNumber(1, ["1", "10", "2"])
    >>> cell + 1, cell.name
    (2, '10')
    """

    name: str

    def __new__(cls, number: int, names: list[str] | None = None) -> ClassNumber:
        """`number`, named where `names` has it."""
        cell = super().__new__(cls, number)
        cell.name = names[number] if names and 0 <= number < len(names) else str(int(number))
        return cell


def class_of(cell: Any) -> str:
    """The name of the class that a cell of a label column says.

    Two files whose columns were numbered apart (``class_encode_column`` sorts their values as texts) have other numbers
    for one class, but the same name.

    Examples
    --------
    >>> class_of("animal"), class_of(3), class_of(ClassNumber(1, ["1", "10", "2"]))
    ('animal', '3', '10')
    """
    return cell.name if isinstance(cell, ClassNumber) else str(cell)


def class_names(path: Location) -> dict[str, list[str]]:
    """Names of the classes by column, of a parquet or arrow file that ``datasets`` wrote; empty for others.

    Examples
    --------
    >>> import datasets
    >>> table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [2, 10]})
    >>> _ = table.class_encode_column("label").to_parquet("rows.parquet")
    >>> from pathlib import Path
    >>> class_names(Path("rows.parquet"))
    {'label': ['10', '2']}
    """
    if not path.name.endswith((".parquet", ".pq", ".arrow", ".feather", ".ipc")):
        return {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    with seekable(path) as handle:
        if path.name.endswith((".parquet", ".pq")):
            schema = pq.read_schema(handle)
        else:
            start = handle.read(6)
            handle.seek(0)
            schema = (pa.ipc.open_file if start == b"ARROW1" else pa.ipc.open_stream)(handle).schema
    content = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return names_of_features(content.get("info", {}).get("features") if isinstance(content, dict) else None)


def named_cells(columns: dict[str, list[Any]], names: Mapping[str, list[str]]) -> dict[str, list[Any]]:
    """The columns with the class numbers of those in `names` named.

    Examples
    --------
    >>> [cell.name for cell in named_cells({"label": [1, 0]}, {"label": ["animal", "thing"]})["label"]]
    ['thing', 'animal']
    """
    return columns | {
        column: [ClassNumber(cell, names[column]) if isinstance(cell, int) else cell for cell in columns[column]]
        for column in names if column in columns
    }  # fmt: skip


def names_of_features(features: Any) -> dict[str, list[str]]:
    """Names of the classes by column, of the features of a data set, as objects or as their dicts.

    Examples
    --------
    >>> import datasets
    >>> names_of_features({"label": datasets.ClassLabel(names=["no", "yes"]), "text": datasets.Value("string")})
    {'label': ['no', 'yes']}
    """
    names = {}
    for column, feature in (features or {}).items():
        content = feature if isinstance(feature, dict) else vars(feature) if hasattr(feature, "names") else {}
        classes = content.get("names")
        if isinstance(classes, list) and (not isinstance(feature, dict) or feature.get("_type") == "ClassLabel"):
            names[column] = [str(one) for one in classes]
    return names
