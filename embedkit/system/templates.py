"""HTML pages from templates."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any


@cache
def _environment(folder: Path) -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def render_template(folder: Path, template: str, **content: Any) -> str:
    """The template ``FOLDER/TEMPLATE.html.j2`` filled with `content`; every text of it is escaped.

    Examples
    --------
    >>> _ = Path("hello.html.j2").write_text("<b>{{ name }}</b>")
    >>> render_template(Path().absolute(), "hello", name="R&D")
    '<b>R&amp;D</b>'
    """
    page: str = _environment(folder).get_template(f"{template}.html.j2").render(**content)
    return page
