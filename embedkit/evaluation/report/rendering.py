"""Pages from the templates beside this file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any


@cache
def _environment() -> Any:
    import jinja2

    folder = Path(__file__).parent / "templates"
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def render(template: str, **content: Any) -> str:
    """The template ``templates/TEMPLATE.html.j2`` filled with `content`; every text of it is escaped.

    Examples
    --------
    >>> table = {"header": ["task"], "rows": [["<b>"]]}
    >>> "&lt;b&gt;" in render("summary", title="sts", scores=table, notes=[])
    True
    """
    page: str = _environment().get_template(f"{template}.html.j2").render(**content)
    return page


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
