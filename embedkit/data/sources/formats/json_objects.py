"""JSON text to values: every key once, every text whole."""

from __future__ import annotations

import json
from typing import Any

from embedkit.data.schema.characters import check_characters
from embedkit.data.schema.rows import BadRow

COLLECTION = (
    "to be scored, give queries {id: text}, corpus {id: text} and relevant_docs {query id: [document ids]}, or BEIR's "
    "form: a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv; to be trained on, rows of query and positive"
)
"""How queries, documents and judgements in one object are given instead."""


def json_object(line: str) -> dict[str, Any]:
    """A JSON object, every key once and every text whole; raises `BadRow` without a place.

    Examples
    --------
    >>> json_object('{"anchor": "a cat", "negatives": ["a dog"]}')
    {'anchor': 'a cat', 'negatives': ['a dog']}
    """
    try:
        value = json.loads(line, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise BadRow("bad JSON", f"not JSON ({error.msg}, column {error.colno})", remedy="one object a line") from error
    except RecursionError as error:
        raise BadRow("bad JSON", "JSON nested too deeply", remedy="one flat object a line") from error
    except ValueError as error:  # a number of more digits than Python converts
        raise BadRow("bad JSON", f"not usable JSON ({error})", remedy="shorten the number") from error
    if not isinstance(value, dict):
        raise BadRow("bad JSON", f"a JSON {type(value).__name__}, not an object", remedy=_remedy_of(value))
    if "\\u" in line:
        check_escapes(value)
    return value


def _remedy_of(value: Any) -> str:
    if isinstance(value, list) and 2 <= len(value) <= 3 and all(isinstance(item, str) for item in value):
        example = {"anchor": "...", "positive": "...", **({"negative": "..."} if len(value) == 3 else {})}
        return f"write the texts under names, {json.dumps(example)} a line"
    return 'write {"column": value, ...} a line'


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of some pairs; raises `BadRow` for a key that occurs twice.

    Examples
    --------
    >>> unique([("anchor", "a cat"), ("anchor", "a dog")])
    Traceback (most recent call last):
    embedkit.data.schema.rows.BadRow: key 'anchor' occurs twice in one object; rename one of them
    """
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadRow("duplicate key", f"key {twice!r} occurs twice in one object", remedy="rename one of them")
    return value


def check_escapes(value: Any) -> None:
    """Refuse texts that JSON escapes can smuggle in and UTF-8 cannot hold: NUL and lone surrogates.

    Examples
    --------
    >>> check_escapes({"anchor": ["a cat"]})
    >>> check_escapes({"anchor": json.loads('"half an emoji: \\\\ud83d"')})
    Traceback (most recent call last):
    embedkit.data.schema.rows.BadRow: lone surrogate U+D83D at character 15; write the file again with whole characters
    """
    if isinstance(value, str):
        check_characters(value)
    elif isinstance(value, list):
        for item in value:
            check_escapes(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_characters(key)
            check_escapes(item)
