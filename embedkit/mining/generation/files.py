"""Requests and answers as files, for services that work through batches of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from embedkit.errors import DataError
from embedkit.mining.rows.table import read_table

_KEYS = ("custom_id", "key", "id")
_ANSWERS = ("answer", "response", "output", "completion", "content", "text")


def request_rows(prompts: Mapping[str, str], chat_model: str | None) -> list[dict[str, Any]]:
    """A row for each prompt: ``custom_id`` and ``prompt``, or the form of OpenAI's batches of chat completions.

    Examples
    --------
    >>> request_rows({"k1": "Write."}, None)
    [{'custom_id': 'k1', 'prompt': 'Write.'}]
    >>> request_rows({"k1": "Write."}, "some-model")[0]["body"]["messages"]
    [{'role': 'user', 'content': 'Write.'}]
    """
    if chat_model is None:
        return [{"custom_id": key, "prompt": prompt} for key, prompt in prompts.items()]
    return [
        {
            "custom_id": key, "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": chat_model, "messages": [{"role": "user", "content": prompt}]},
        }
        for key, prompt in prompts.items()
    ]  # fmt: skip


def answers_of(data: Any) -> tuple[dict[str, Any], int]:
    """Answers by the key of their request, and the number of rows that hold none.

    Parameters
    ----------
    data : str, Path or object
        Rows with ``custom_id`` (or ``key``, ``id``) and the answer: in ``answer``, ``output``, ``completion``,
        ``content`` or ``text``, or in a ``response`` as services for chat completions give it.

    Raises
    ------
    DataError
        The rows have no such columns.

    Examples
    --------
    >>> message = {"choices": [{"message": {"content": "a text"}}]}
    >>> answers_of([{"custom_id": "k1", "response": {"body": message}}, {"custom_id": "k2", "response": None}])
    ({'k1': 'a text'}, 1)
    """
    table = read_table(data)
    columns = table.columns
    key = next((name for name in _KEYS if name in columns), None)
    value = next((name for name in _ANSWERS if name in columns), None)
    if key is None or value is None:
        missing, names = ("the ids of requests", _KEYS) if key is None else ("the answers", _ANSWERS)
        raise DataError(f"no column for {missing}: it has {', '.join(columns)}", where=table.name,
                        remedy=f"call it {names[0]}")  # fmt: skip
    answers: dict[str, Any] = {}
    failures = 0
    for row in table.rows:
        answer = _text_of(row.get(value))
        if answer is None:
            failures += 1
        else:
            answers[str(row.get(key))] = answer
    return answers, failures


def _text_of(cell: Any) -> Any:
    """The answer in a cell: a text, a list of texts, or what a service wraps around it."""
    if isinstance(cell, str) and cell.lstrip().startswith('{"') and "choices" in cell:
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    for _ in range(8):
        if isinstance(cell, str):
            return cell if cell.strip() else None
        if isinstance(cell, list):
            if cell and all(isinstance(one, str) for one in cell):
                return cell
            cell = cell[0] if cell else None
        elif isinstance(cell, Mapping):
            inner = next((name for name in ("body", "choices", "message", "content", "text") if cell.get(name)), None)
            if inner is None:
                return dict(cell) if {"positive", "negative"} <= set(cell) else None
            cell = cell[inner]
        else:
            return None
    return None
