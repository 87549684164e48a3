"""Views by name, chains of them, and their application to the texts of a batch.

A view is a chain of steps. A step changes the text, puts a template around it, or says how the encoder runs; each is
registered under its name as a function of its settings::

    method:
      name: views
      positive:
        - {name: word-deletion, rate: 0.2}
        - {name: dropout, rate: 0.15}

What a chain draws for a row depends only on the generator that it is given; the trainer's is a pure function of
(seed, epoch, step, place of the row in the batch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from embedkit.config.settings import check
from embedkit.data.vectors.sequences import Sequences
from embedkit.data.vectors.values import Vectors, stacked
from embedkit.errors import RecipeError
from embedkit.registry import Registry, not_a
from embedkit.views.mixing import partners


@dataclass
class View:
    """One named input of the encoder.

    Attributes
    ----------
    inputs : sequence
        Texts (str), images, or vectors (float32 arrays, or `Vectors`, which are one array).
    owner : list of int
        For each input, the row of this process's batch it belongs to; not decreasing.
    prompt : str or None
        Prompt text that is put in front of, or around (with ``{}``), each text; or the name of one.
    tower : str
        Which encoder: "text" or "image".
    settings : dict
        Settings of `Method.embed`, by default those of the forward pass, e.g. ``{"token_cutoff": 0.15}``; inputs with
        equal settings share chunks. Plain values only.
    data : dict of str to array
        Further values of each input, first axis as `inputs`; they reach `embed` as ``inputs.data``.
    places : int64 array (n, k), optional
        Whole numbers of each input that objectives and terms read as ``batch.places``: say its place in the document of
        its row, and the number of sentences there. k is the same in every batch.
    guided : bool
        Whether a guide, if there is one, embeds the view too (plainly, without `settings`).
    own_shapes : bool
        Whether each image of the view may have a shape of its own, where the model gives it one (``preprocess.patch``);
        not where patches of images are compared or images are mixed.

    Examples
    --------
    >>> import numpy as np
    >>> view = View(inputs=["a small red car, near the old house"], owner=[0])
    >>> phrases = Chain.of("phrases").apply(view, [np.random.default_rng(3)])  # one vector per row, of two texts
    >>> phrases.inputs, phrases.owner
    (['a small red car, near the', 'old house'], [0, 0])
    """

    inputs: Sequence[Any]
    owner: list[int]
    prompt: str | None = None
    tower: str = "text"
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    guided: bool = True
    places: np.ndarray | None = None
    own_shapes: bool = True


TextEdit = Callable[[str, np.random.Generator], "str | list[str]"]
"""A pure function of a text and a generator; a list is parts of the text whose vectors are composed to one."""

ArrayEdit = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""A pure function of a vector (W,) or a sequence (T, W) and a generator."""

ArrayMix = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""A pure function of a vector or sequence, that of the row's partner in the batch, and a generator."""


@dataclass(frozen=True)
class Step:
    """One entry of a chain; it usually has one of these: an edit, a template, a change or a mixture of numbers, or
    settings of the forward pass.

    Attributes
    ----------
    edit : callable, optional
        ``(text, generator) -> text``, or a list of its parts.
    prompt : str, optional
        A template with ``{}`` around the text.
    forward : dict
        Settings of the encoder's forward pass.
    splits : bool
        Whether `edit` may give several parts.
    change : callable, optional
        ``(array, generator) -> array`` of a vector (W,) or a sequence (T, W).
    mix : callable, optional
        ``(array, partner's array, generator) -> array``; rows of a batch are partners two by two.
    axes : int
        Axes that the numbers of `change` need at least: 2 for sequences only.

    Examples
    --------
    >>> import numpy as np
    >>> shout = Step(edit=lambda text, random: text.upper())
    >>> Chain((shout,)).texts("a red car", np.random.default_rng(0))
    ['A RED CAR']
    """

    edit: TextEdit | None = None
    prompt: str | None = None
    forward: dict[str, Any] = field(default_factory=dict)
    splits: bool = False
    change: ArrayEdit | None = None
    mix: ArrayMix | None = None
    axes: int = 1


def _adopt(name: str, part: Any) -> Callable[..., Step]:
    """The function of a plug-in's view: its arguments are settings, its result is a `Step`."""
    if not callable(part) or isinstance(part, type):
        raise not_a("view", part, name, "give a function of settings that returns an embedkit.views.Step")
    view: Callable[..., Step] = part
    return view


views: Registry[Callable[..., Step]] = Registry("view", "embedkit.views", plugins="embedkit.views", adopt=_adopt)


@dataclass(frozen=True)
class Chain:
    """Steps in order: edits one after the other, at most one template, and the forward settings of all.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.views import Chain
    >>> chain = Chain.of([{"name": "word-deletion", "rate": 0.5}, {"name": "dropout", "rate": 0.2}])
    >>> chain.texts("a small red car, near the old house", np.random.default_rng(3)), chain.forward
    (['red car,'], {'dropout': 0.2})
    """

    steps: tuple[Step, ...] = ()

    @classmethod
    def of(cls, config: Sequence[str | Mapping[str, Any]] | str | Mapping[str, Any], where: str = "view") -> Chain:
        """The chain of a list of names or ``{name, settings}``; one entry may stand without a list.

        Raises
        ------
        UserError, RecipeError
            Unknown view or setting, a value out of bounds, two templates, two values for one forward setting.
        """
        is_list = isinstance(config, Sequence) and not isinstance(config, str)
        steps = []
        for place, entry in enumerate(config if is_list else [config]):
            here = f"{where}.{place}" if is_list else where
            settings = {"name": entry} if isinstance(entry, str) else entry
            if not (isinstance(settings, Mapping) and isinstance(settings.get("name"), str)):
                raise RecipeError("an entry has no name", where=here, remedy="write {name: word-deletion, rate: 0.1}")
            make = views[settings["name"]]
            steps.append(make(**check(make, {k: v for k, v in settings.items() if k != "name"}, here)))
        chain = cls(tuple(steps))
        keys = [key for step in chain.steps for key in step.forward]
        if len(set(keys)) < len(keys) or sum(step.prompt is not None for step in chain.steps) > 1:
            raise RecipeError("two entries set the same thing", where=where, remedy="keep one of them")
        return chain

    def texts(self, text: str, random: np.random.Generator) -> list[str]:
        """The text after all edits; several where a step cut it into parts."""
        parts = [text]
        for step in self.steps:
            if step.edit is not None:
                results = [step.edit(part, random) for part in parts]
                parts = [p for new in results for p in ([new] if isinstance(new, str) else new)]
        return parts

    @property
    def prompt(self) -> str | None:
        """The template, if a step has one."""
        return next((step.prompt for step in self.steps if step.prompt is not None), None)

    @property
    def splits(self) -> bool:
        """Whether a text may become several."""
        return any(step.splits for step in self.steps)

    @property
    def forward(self) -> dict[str, Any]:
        """The forward settings of all steps."""
        return {key: value for step in self.steps for key, value in step.forward.items()}

    def apply(self, view: View, random: Sequence[np.random.Generator]) -> View:
        """The view with every input changed; input i draws from ``random[owner[i]]``, in order."""
        settings = {**view.settings, **self.forward}
        if self.changes_numbers:
            return replace(view, inputs=self._arrays(view, random), settings=settings)
        if all(step.edit is None and step.prompt is None for step in self.steps):
            return replace(view, settings=settings)
        texts = [self.texts(text, random[row]) for text, row in zip(view.inputs, view.owner, strict=True)]
        inputs = [text for parts in texts for text in parts]
        owner = [row for row, parts in zip(view.owner, texts, strict=True) for _ in parts]
        prompt = self.prompt if self.prompt is not None else view.prompt
        return replace(view, inputs=inputs, owner=owner, prompt=prompt, settings=settings)

    @property
    def changes_numbers(self) -> bool:
        """Whether a step changes vectors or sequences before the encoder sees them."""
        return any(step.change is not None or step.mix is not None for step in self.steps)

    def fault_of(self, cell: Any) -> str | None:
        """Why the chain cannot change a cell, a text or an array; None where it can."""
        axes = cell.ndim if isinstance(cell, np.ndarray) else 0
        kind = ("text", "vector", "sequence")[min(axes, 2)]
        for step in self.steps:
            numbers = step.change is not None or step.mix is not None
            if numbers and axes < step.axes:
                return f"a step changes {'sequences' if step.axes > 1 else 'vectors'}, and the rows have a {kind}"
            if axes and (step.edit is not None or step.prompt is not None):
                return f"a step changes texts, and the rows have a {kind}"
        return None

    def _arrays(self, view: View, random: Sequence[np.random.Generator]) -> Vectors | Sequences:
        """The vectors or sequences of a view after all steps."""
        arrays, generators = list(view.inputs), [random[row] for row in view.owner]
        way = partners(len(arrays))[:, 0]
        for step in self.steps:
            if step.change is not None:
                arrays = [step.change(x, generator) for x, generator in zip(arrays, generators, strict=True)]
            if step.mix is not None:
                arrays = [
                    step.mix(x, arrays[place + way[place]], generators[place]) if way[place] else x
                    for place, x in enumerate(arrays)
                ]
        return Sequences.of(arrays) if arrays[0].ndim == 2 else Vectors(stacked(arrays))
