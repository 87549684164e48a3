"""Arrow batches to records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

BATCH = 1024
"""Rows decoded at a time; few, because a row may hold an image."""


def numbered(batches: Iterator[Any], schema: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (from 1) and cells of each row of record batches, with JSON columns decoded.

    Raises
    ------
    pyarrow.ArrowException, ValueError
        For damaged offsets and text that is not UTF-8.

    Examples
    --------
    >>> import pyarrow as pa
    >>> table = pa.table({"anchor": ["a cat", "a dog"], "label": [0, 1]})
    >>> list(numbered(iter(table.to_batches()), table.schema))
    [(1, {'anchor': 'a cat', 'label': 0}), (2, {'anchor': 'a dog', 'label': 1})]
    """
    json_columns = _json_columns(schema)
    number = 0
    for batch in batches:
        batch.validate(full=True)
        for values in batch.to_pylist():
            number += 1
            yield number, decoded(values, json_columns)


def pieces(batch: Any) -> Iterator[Any]:
    """Slices of `BATCH` rows of a record batch.

    Examples
    --------
    >>> import pyarrow as pa
    >>> [piece.num_rows for piece in pieces(pa.record_batch({"label": range(1500)}))]
    [1024, 476]
    """
    for start in range(0, batch.num_rows, BATCH):
        yield batch.slice(start, BATCH)


def _json_columns(schema: Any) -> list[str]:
    """Columns whose cells are JSON text by the type or the features that ``datasets`` (5.2 on) writes beside them."""
    names = [field.name for field in schema if getattr(field.type, "extension_name", "") == "arrow.json"]
    metadata = (schema.metadata or {}).get(b"huggingface")
    content = json.loads(metadata) if metadata else {}
    features = content.get("info", {}).get("features") if isinstance(content, dict) else None
    names += [name for name, feature in (features or {}).items() if is_json(feature)]
    return [name for name in dict.fromkeys(names) if name in schema.names]


def is_json(feature: Any) -> bool:
    """Whether a feature of ``datasets``, as an object or as its dict, is the one for JSON of any type.

    Examples
    --------
    >>> is_json({"_type": "Json"}), is_json({"_type": "Value", "dtype": "string"})
    (True, False)
    """
    kind = feature.get("_type") if isinstance(feature, dict) else type(feature).__name__
    return bool(kind == "Json")


def decoded(values: dict[str, Any], columns: list[str]) -> dict[str, Any]:
    """A row with the JSON text in `columns` replaced by its values.

    Examples
    --------
    >>> decoded({"a": '"x"', "b": '"y"'}, ["a"])
    {'a': 'x', 'b': '"y"'}
    """
    if not columns:
        return values
    return values | {name: json.loads(values[name]) for name in columns if isinstance(values.get(name), str)}
