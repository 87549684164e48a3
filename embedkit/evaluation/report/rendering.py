"""Pages from the templates beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedkit.system.templates import render_template


def render(template: str, **content: Any) -> str:
    """The template ``templates/TEMPLATE.html.j2`` filled with `content`; every text of it is escaped.

    Examples
    --------
    >>> table = {"header": ["task"], "rows": [["<b>"]]}
    >>> "&lt;b&gt;" in render("summary", title="sts", scores=table, notes=[])
    True
    """
    return render_template(Path(__file__).parent / "templates", template, **content)


def one_line(text: object) -> str:
    """A text from elsewhere on one line of Markdown: no HTML, no cell of a table, no link or image of its own.

    Examples
    --------
    >>> print(one_line("a <b> | [c](d)"))
    a &lt;b&gt; \\| [c]\\(d)
    """
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return line.replace("|", "\\|").replace("](", "]\\(")


def shortened(text: str, parts: int = 2) -> str:
    """A path without the folders that only the machine knows; other texts as they are.

    Examples
    --------
    >>> shortened("/home/me/work/runs/pairs/model"), shortened("org/model")
    ('.../pairs/model', 'org/model')
    """
    pieces = text.split("/")
    path = text.startswith(("/", "~/")) or len(pieces) > 3
    return text if not path or len(pieces) <= parts + 1 or "\n" in text else "/".join(["...", *pieces[-parts:]])


def without_folders(value: Any) -> Any:
    """The value with every absolute path in it shortened: what is shared names no folders of a machine.

    Examples
    --------
    >>> without_folders({"path": "/home/me/work/data/faq.csv", "rows": 3})
    {'path': '.../data/faq.csv', 'rows': 3}
    """
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    return shortened(value) if isinstance(value, str) and value.startswith(("/", "~/")) else value


def without_empty(value: Any) -> Any:
    """The value without None and empty parts of mappings, which only repeat defaults.

    Examples
    --------
    >>> without_empty({"name": "faq", "revision": None, "groups": []})
    {'name': 'faq'}
    """
    if isinstance(value, Mapping):
        parts = {key: without_empty(item) for key, item in value.items()}
        return {key: item for key, item in parts.items() if item is not None and item not in ({}, [], "")}
    return [without_empty(item) for item in value] if isinstance(value, list) else value
