"""A progress bar for notebooks that needs no widgets: an HTML element that is updated in place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from html import escape
from typing import Any


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel (Jupyter, Colab, Kaggle), where a terminal's bar cannot be drawn.

    Examples
    --------
    >>> in_notebook()
    False
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None


class NotebookBar:
    """A bar below the cell; `show` draws it anew.

    Parameters
    ----------
    display : callable, optional
        Takes the first HTML and gives a handle whose `update` takes the later ones; IPython's display when None.

    Examples
    --------
    >>> bar = NotebookBar(display=print)
    >>> bar.show(3, 10, "loss 0.5")
    <progress value="3" max="10"></progress> 3/10 loss 0.5
    """

    def __init__(self, display: Callable[[str], Any] | None = None) -> None:
        self._display = display or _Cell
        self._handle: Any = None

    def show(self, count: int, total: int | None, text: str = "") -> None:
        """Draw `count` of `total` (None: not known), and a text behind it."""
        html = bar_html(count, total, text)
        if self._handle is None:
            self._handle = self._display(html)
        else:
            self._handle.update(html)


class _Cell:
    """HTML below the cell, updated in place by IPython."""

    def __init__(self, html: str) -> None:
        from IPython.display import HTML, display

        self._html, self._handle = HTML, display(HTML(html), display_id=True)

    def update(self, html: str) -> None:
        """Show other HTML in its place."""
        self._handle.update(self._html(html))


def bar_html(count: int, total: int | None, text: str = "") -> str:
    """The HTML of a bar.

    Examples
    --------
    >>> bar_html(3, 10, "loss 0.5")
    '<progress value="3" max="10"></progress> 3/10 loss 0.5'
    """
    if total is None:
        return f"<progress></progress> {count:,} {escape(text)}"
    return f'<progress value="{count}" max="{total}"></progress> {count:,}/{total:,} {escape(text)}'
