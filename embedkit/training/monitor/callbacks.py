"""User code that is called during a run: any object with some of the methods of `Callback`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedkit.errors import RecipeError, nearest


class Callback:
    """Base of callbacks; every method does nothing. All are called on the main process, with plain values.

    Subclass it, or give any object that has some of these methods.

    Examples
    --------
    >>> class Losses(Callback):
    ...     def on_step(self, step, figures):
    ...         if figures is not None:
    ...             print(step, figures["loss"])
    >>> Losses().on_step(10, {"loss": 0.5})
    10 0.5
    """

    def on_start(self, facts: dict[str, Any]) -> None:
        """Training begins: ``name``, ``output``, ``step`` (done so far), ``total_steps``, ``batch_size``, ``rows``."""

    def on_step(self, step: int, figures: dict[str, float] | None) -> None:
        """Step `step` (from 1 on) is done; `figures` are those of the log line at log steps, else None."""

    def on_evaluate(self, step: int, scores: dict[str, float]) -> None:
        """The model of this step has been scored: ``suite/task`` -> score."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """A complete checkpoint of this step is in the folder `path`."""

    def on_end(self, result: dict[str, Any]) -> None:
        """The model is saved: the fields of `TrainResult`."""


METHODS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class Callbacks:
    """The callbacks of a run, called in the order given; none on the other processes.

    Raises
    ------
    RecipeError
        One has none of the methods, or a method ``on_...`` that nothing would call.

    Examples
    --------
    >>> class Losses:
    ...     def on_step(self, step, figures):
    ...         print(step, figures)
    >>> Callbacks([Losses()]).step(1, {"loss": 0.5})
    1 {'loss': 0.5}
    """

    def __init__(self, entries: Sequence[Any] = (), *, is_main: bool = True) -> None:
        for number, entry in enumerate(entries):
            names = [name for name in dir(entry) if name.startswith("on_") and callable(getattr(entry, name))]
            where = f"callbacks[{number}] ({type(entry).__name__})"
            for name in names:
                if name not in METHODS:
                    raise RecipeError(f"nothing calls {name}", where=where, remedy=nearest(name, METHODS))
            if not names or isinstance(entry, type):
                what = "is a class, not an object" if isinstance(entry, type) else "has no method that a run calls"
                raise RecipeError(what, where=where, remedy=f"give an object with some of {', '.join(METHODS)}")
        self._entries = list(entries) if is_main else []

    def start(self, facts: Mapping[str, Any]) -> None:
        """Call ``on_start`` of each."""
        self._call("on_start", dict(facts))

    def step(self, step: int, figures: Mapping[str, float] | None) -> None:
        """Call ``on_step`` of each."""
        self._call("on_step", step, None if figures is None else dict(figures))

    def evaluate(self, step: int, scores: Mapping[str, float]) -> None:
        """Call ``on_evaluate`` of each."""
        self._call("on_evaluate", step, dict(scores))

    def checkpoint(self, step: int, path: Path) -> None:
        """Call ``on_checkpoint`` of each."""
        self._call("on_checkpoint", step, path)

    def end(self, result: Mapping[str, Any]) -> None:
        """Call ``on_end`` of each."""
        self._call("on_end", dict(result))

    def _call(self, name: str, *values: Any) -> None:
        for entry in self._entries:
            method = getattr(entry, name, None)
            if method is not None:
                method(*values)
