"""What a method and its objective read of a run: found out by trying both, so that nothing given is ignored.

A method makes its views of a few invented rows that note which of their roles are asked for; its objective is evaluated
on a small random batch (`embedkit.objectives.probe`). A guide, a prompt or a role that neither of them reads is then
refused, or left out of the contract with the data, which says so. It works for every method, view and objective, those
of plug-ins too, and takes a fraction of a second.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedkit.data.schema.contract import Contract
from embedkit.data.schema.kinds import is_modality
from embedkit.data.schema.targets import is_target
from embedkit.errors import RecipeError, UserError, nearest
from embedkit.methods.base import Method, View
from embedkit.methods.common.augmenting import Augmenting
from embedkit.methods.common.auxiliary import WithAuxiliaries
from embedkit.views.image import ImageInput

NUMBERS = frozenset({"score", "scores", "label", "group", "document_id", "position"})
"""Roles that reach an objective as numbers of a row; all others are read by the method's views."""

_INVENTED = 4

VIEWS = tuple(f"view{number}" for number in range(3, 17))
"""Names of the views of a list behind the first two."""

_ADD_GUIDE = "add a guide section, as guide: {ema: 0.996} or {model: {name: MODEL}}"


class Noted(dict[str, Any]):
    """A mapping that notes which of its keys are asked for.

    Examples
    --------
    >>> row = Noted({"anchor": "a red car", "label": 1})
    >>> row["anchor"], sorted(row.reads)
    ('a red car', ['anchor'])
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.reads: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.reads.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, noted."""
        self.reads.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        self.reads.update(self.keys())
        return super().__iter__()

    def items(self) -> Any:
        """All entries, noted."""
        self.reads.update(self.keys())
        return super().items()


@dataclass(frozen=True)
class Usage:
    """What a run reads of its rows.

    Attributes
    ----------
    roles : frozenset of str
        Roles that the views, the objective or the method's own terms read.
    same_inputs : tuple of str
        Views that hold the same inputs, so that only the encoder's dropout tells them apart.
    notes : tuple of str
        Lines for the user.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> usage_of(methods["simcse-unsup"](), {"name": "infonce"}, frozenset({"anchor"}))
    Usage(roles=frozenset({'anchor'}), same_inputs=('anchor', 'positive'), notes=())
    """

    roles: frozenset[str]
    same_inputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def usage_of(
    method: Method, objective: Mapping[str, Any], roles: frozenset[str], *, guide: bool = False, optional: bool = False,
    lenient: bool = False,
) -> Usage:  # fmt: skip
    """What `method` with `objective` reads of rows that have `roles`.

    Parameters
    ----------
    method : Method
        With its settings, and its auxiliaries around it.
    objective : mapping
        As `embedkit.objectives.build` takes it; empty for a method whose terms are all its loss.
    roles : frozenset of str
        Roles of the rows.
    guide : bool
        Whether the run has one.
    optional : bool
        The data may lack those of the roles that nothing requires.
    lenient : bool
        A guide that nothing reads is noted, not refused: for recipes of an earlier version, which trained with it.

    Raises
    ------
    RecipeError
        Something that is given cannot be read: a guide, a prompt; or the objective cannot work with these views.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> usage = usage_of(methods["pairs"](), {"name": "infonce"}, frozenset({"anchor", "positive", "label"}))
    >>> sorted(usage.roles)
    ['anchor', 'positive']
    """
    views, reads = views_of(method, roles, optional)
    names = method.embedded(roles) if objective else frozenset()
    read = set(reads) & roles | (method.reads & roles)
    guided = _guided(method, names, views) if guide else frozenset()
    read_by_objective = _effects(method, objective, names, roles, guided, optional) if objective else frozenset()
    if "negatives" not in read_by_objective and "negatives" not in method.contract.requires:
        read.discard("negatives")
    read |= read_by_objective & roles
    if objective:
        _check_listed(method, objective, views, names - read_by_objective - _read_beside(method, views))
    notes = []
    if guide and "guide" not in read_by_objective and not method.reads_guide:
        error = RecipeError(
            f"nothing reads the guide, neither the method nor objective {objective.get('name', 'none')!r}",
            where="guide",
            remedy=_guide_remedy(objective),
        )  # fmt: skip
        if not lenient:
            raise error
        notes.append(error.line())
    return Usage(frozenset(read), _same_inputs(method, views, names), tuple(notes))


def _check_listed(method: Method, objective: Any, views: Mapping[str, View], unread: frozenset[str]) -> None:
    """Refuse a view that the recipe asks for, or what a projector makes of one, where nothing reads it."""
    name = min(method.listed_views & unread, default=None)
    if name is None:
        return
    what, many = f"objective {objective.get('name')!r} does not read {name!r}", name in VIEWS
    if name in method.sizes:
        raise RecipeError(
            f"{what}, what a projector makes of a view", where="method.projectors",
            remedy="leave it out there, or name it in the inputs of a term of the objective",
        )  # fmt: skip
    raise RecipeError(
        f"{what}, a view{' of the list' * many}",
        where="method.views" if many else f"method.{views[name].tower}s.{name}",
        remedy="list two views, or choose an objective of many views, such as swav or ntxent" if many
        else "leave it out, or name it in the inputs of a term of the objective, or in the views of a projector",
    )  # fmt: skip


def _read_beside(method: Method, views: Mapping[str, View]) -> frozenset[str]:
    """Views of the main method that an auxiliary may read; of a list of views it reads the first two."""
    others = methods_of(method)[1:]
    names = {getattr(one, key, None) for one in others for key in ("view", "image")}
    if any(one.reads_patches for one in others):
        names |= {name for name, view in views.items() if view.tower == "image" and name not in VIEWS}
    return frozenset(name for name in names if isinstance(name, str))


def _missing_views(objective: Mapping[str, Any], missing: Sequence[str], names: frozenset[str]) -> RecipeError:
    """What an objective needs and nothing gives; where a setting of it names that, it is told there."""
    for name in missing:
        for place in _places(objective, name):
            what = f"no view or role of this method is called {name!r}"
            return RecipeError(what, where=f"objective.{place}", remedy=nearest(name, names))
    return RecipeError(
        f"objective {objective.get('name')!r} needs {', '.join(missing)}", where="objective",
        remedy=_ADD_GUIDE if "guide" in missing
        else "choose an objective that the views and roles of the method can feed",
    )  # fmt: skip


def _places(settings: Any, value: str) -> Iterator[str]:
    """The dotted keys of settings, those of names aside, that hold a text."""
    items = settings.items() if isinstance(settings, Mapping) else enumerate(settings)
    for key, item in items:
        if item == value and key != "name":
            yield str(key)
        elif isinstance(item, Mapping | list | tuple):
            yield from (f"{key}.{place}" for place in _places(item, value))


def _effects(
    method: Method, objective: Mapping[str, Any], names: frozenset[str], roles: frozenset[str],
    guided: frozenset[str], optional: bool,
) -> frozenset[str]:  # fmt: skip
    """What has an effect on the objective, in one of the forms that the data may have."""
    from embedkit.objectives.probe import Situation, effects
    from embedkit.objectives.registry import build

    numbers = roles & NUMBERS | method.gives
    trial = build(dict(objective))
    missing = trial.requires - names - numbers - ({"guide"} if guided or method.reads_guide else set())
    if missing:
        raise _missing_views(objective, sorted(missing), names)
    forms = [numbers]
    free = numbers - trial.requires - method.contract.requires
    if optional:  # a role can hide another one: a teacher's scores its vectors, say
        forms += [numbers - {role} for role in sorted(free & set().union(*trial.any_of))]
        forms += [numbers - {"score", "scores"}] if guided and {"score", "scores"} <= free else []
    names_read: set[str] = set()
    for form in forms:
        situation = Situation(
            names, form, guided, method.widths, method.embedding_size,
            method.guide_dim(method.embedding_size) if method.embedding_size else None, method.sizes,
        )  # fmt: skip
        if all(options & (form | names | ({"guide"} if guided else set())) for options in trial.any_of):
            names_read |= effects(dict(objective), situation)
        elif len(forms) == 1 or not optional:
            _refuse_missing(str(objective.get("name")), trial.any_of, form | names)
    return frozenset(names_read)


def note_views(method: Method, objective: Mapping[str, Any], contract: Contract, *, guide: bool) -> None:
    """Tell a method which views' guide vectors its objective reads, and which embeddings get a gradient from it, so
    that what nobody needs is not computed; nothing is told where the objective cannot say.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["moco"]()
    >>> note_views(method, {**method.objective, "size": 64}, method.contract, guide=True)
    >>> sorted(method.guide_views), sorted(method.trained_views)
    (['positive'], ['anchor'])
    """
    from embedkit.objectives.probe import Situation, guided_and_trained

    main = method.main if isinstance(method, WithAuxiliaries) else method
    if not objective or not guide or not main.followed:
        return
    names = method.embedded(contract.roles)
    numbers = contract.requires & NUMBERS | method.gives
    views = views_of(method, contract.roles, False)[0]
    size, guided = method.embedding_size, _guided(method, names, views)
    guide_size = method.guide_dim(size) if size else None
    situation = Situation(names, numbers, guided, method.widths, size, guide_size, method.sizes)
    try:
        main.guide_views, main.trained_views = guided_and_trained(dict(objective), situation)
    except UserError:  # what is wrong is told where it is checked for
        return


def check_guide_size(
    method: Method, objective: Mapping[str, Any], roles: frozenset[str], dim: int, guide_dim: int
) -> None:
    """Refuse an objective that compares embeddings of size `dim` with the guide's vectors of size `guide_dim`.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["pairs"]()
    >>> check_guide_size(method, {"name": "embedding-mse"}, frozenset({"anchor", "positive"}), 8, 16)
    Traceback (most recent call last):
    embedkit.errors.UserError: objective: the guide's vectors of 'anchor' have 16 columns, the embeddings 8; ...
    """
    from embedkit.objectives.probe import Situation, trial_run

    names = method.embedded(roles) if objective else frozenset()
    views = views_of(method, roles, False)[0]
    guided = _guided(method, names, views)
    if guided:
        trial_run(
            dict(objective), Situation(names, roles & NUMBERS, guided, method.widths, dim, guide_dim, method.sizes)
        )


def _guided(method: Method, names: frozenset[str], views: Mapping[str, View]) -> frozenset[str]:
    """Embeddings of which a guide has vectors."""
    return frozenset(name for name in names if name in views and views[name].guided) | (names & method.guided)


def _refuse_missing(name: str, any_of: Sequence[frozenset[str]], there: frozenset[str]) -> None:
    missing = next(options for options in any_of if not options & there)
    raise RecipeError(
        f"objective {name!r} needs one of {', '.join(sorted(missing))}", where="objective",
        remedy=f"{_ADD_GUIDE}, or map a column of the data to a role" if "guide" in missing
        else "map a column of the data to it",
    )  # fmt: skip


def _guide_remedy(objective: Mapping[str, Any]) -> str:
    """What to do about a guide that nothing reads."""
    from embedkit.objectives.registry import presets

    name = str(objective.get("name"))
    switch = "set objective.keys: guide, or " if name in presets and "keys" in presets[name].settings else ""
    others = ", ".join(_with_guide(name))
    return f"leave it out, {switch or 'or '}choose an objective that reads one, such as {others}"


def _with_guide(name: str) -> list[str]:
    """Up to five objectives that read a guide, the likest to `name` first."""
    import difflib

    from embedkit.objectives.registry import presets

    readers = [
        preset_name for preset_name, preset in presets.items()
        if ... not in preset.settings.values() and "guide" in _inputs(preset.make({}, None, None))
    ]  # fmt: skip
    return sorted(readers, key=lambda preset_name: -difflib.SequenceMatcher(None, preset_name, name).ratio())[:5]


def _inputs(objective: Any) -> frozenset[str]:
    return objective.requires | objective.accepts  # type: ignore[no-any-return]


def views_of(method: Method, roles: frozenset[str], optional: bool) -> tuple[dict[str, View], set[str]]:
    """The views of a few invented rows, and the roles that were asked for; unread prompts are refused.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> views, reads = views_of(methods["pairs"](), frozenset({"anchor", "positive"}), optional=False)
    >>> list(views), sorted(reads)
    (['anchor', 'positive'], ['anchor', 'positive'])
    """
    forms = [roles]
    if optional:
        forms += [roles - {role} for role in sorted(roles & method.contract.accepts)]
    views: dict[str, View] = {}
    reads: set[str] = set()
    tables: dict[str, Noted] = {}
    inner = methods_of(method)
    for number, form in enumerate(forms):
        rows = [Noted(_invented(method, i, form)) for i in range(_INVENTED)]
        with _noted(inner, tables):
            try:
                outline = method.outline(rows, _random)
            except UserError:
                if number == 0:
                    raise
                reads |= roles - form  # rows without this role are none: it is read
                continue
        views = outline if number == 0 else views
        reads |= set().union(*(row.reads for row in rows))
    for where, table in tables.items():
        for key in table.keys() - table.reads:
            names = sorted(table.reads)
            raise RecipeError(
                f"nothing reads {key!r}", where=f"method.{where}.{key}",
                remedy=f"known here: {', '.join(names) or 'none'}",
            )  # fmt: skip
    return views, reads


def methods_of(method: Method) -> list[Method]:
    """A method and its auxiliaries.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> len(methods_of(methods["clip"]()))
    1
    """
    if isinstance(method, WithAuxiliaries):
        return [method.main, *(auxiliary.method for auxiliary in method.beside_main)]
    return [method]


class _noted:
    """A context in which the mappings among the settings of methods note what is asked for, in `tables`."""

    def __init__(self, inner: Sequence[Method], tables: dict[str, Noted]) -> None:
        self.places = [
            (method, name) for method in inner for name in inspect.signature(type(method).__init__).parameters
            if type(vars(method).get(name)) is dict
        ]  # fmt: skip
        self.tables, self.before = tables, [vars(method)[name] for method, name in self.places]

    def __enter__(self) -> None:
        for method, name in self.places:
            table = self.tables.setdefault(name, Noted(vars(method)[name]))
            setattr(method, name, table)

    def __exit__(self, *error: object) -> None:
        for (method, name), value in zip(self.places, self.before, strict=True):
            setattr(method, name, value)


def _random(row: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[0, 0], counter=[0, max(row, 0), 0, 0]))


def _same_inputs(method: Method, views: Mapping[str, View], names: frozenset[str]) -> tuple[str, ...]:
    """Two of the embedded views that are equal but for the encoder's dropout; empty when there are none."""
    main = method.main if isinstance(method, WithAuxiliaries) else method
    chains = main.chains if isinstance(main, Augmenting) else {}
    plain = [name for name in views if name in names and name != "negatives" and not _changes(chains.get(name))]
    for place, name in enumerate(plain):
        for other in plain[place + 1 :]:
            if _alike(views[name], views[other]):
                return name, other
    return ()


def _changes(chain: Any) -> bool:
    return chain is not None and len(chain.steps) > 0


def _alike(one: View, two: View) -> bool:
    form = [(v.tower, v.prompt, v.settings, v.owner, [_content(x) for x in v.inputs]) for v in (one, two)]
    return form[0] == form[1]


def _content(item: Any) -> Any:
    if isinstance(item, ImageInput):
        return item.picture if item.transform is None else (item.picture, item.seed)
    return item.tobytes() if isinstance(item, np.ndarray) else item


def _invented(method: Method, number: int, roles: frozenset[str]) -> dict[str, Any]:
    """A row that has these roles; no two of its texts are alike."""
    image = f"image {number}".encode()
    row = {
        "anchor": f"first {number} text of a row", "positive": f"second {number} text of a row",
        "negatives": [f"third {number} text", f"fourth {number} text"], "score": 0.5, "scores": [0.9, 0.2, 0.1],
        "label": number % 2, "group": f"group {number % 2}", "image": image, "image2": image + b" again",
        "features": np.zeros(method.feature_size, np.float32), "texts": [f"caption {number} one", f"caption {number}"],
        "sentences": [f"sentence {i} of document {number} is here" for i in range(12)],
        "document_id": f"document {number // 2}", "position": number % 2,
    }  # fmt: skip
    row |= dict.fromkeys(filter(is_target, roles)) | {role: f"{role} {number}" for role in filter(is_modality, roles)}
    return {role: row[role] for role in row if role in roles}


def equal_views(method: Method, usage: Usage, model: Any, parts: Any) -> str | None:
    """A line for the user where two views are equal, because nothing but dropout differs and there is none.

    One text is embedded twice in training mode, by the method's own way.

    Parameters
    ----------
    model : Model
        Adapted to the method, not yet moved or wrapped.
    parts : ModuleDict
        The method's.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> from embedkit.methods import methods
    >>> method = methods["simcse-unsup"]()
    >>> model = build(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0)  # has no dropout
    >>> usage = usage_of(method, {"name": "infonce"}, frozenset({"anchor"}))
    >>> equal_views(method, usage, model, None)
    "the views 'anchor' and 'positive' are equal: they hold the same text, and the model has no dropout ..."
    """
    if not usage.same_inputs:
        return None
    import torch

    views = {name: view for name, view in views_of(method, usage.roles, False)[0].items() if name in usage.same_inputs}
    view = next(iter(views.values()))
    if view.tower != "text":
        return None
    was_training = model.training
    model.train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            example = view.inputs[:1] if model.input_width is None else [model.example_input()]
            inputs = method.prepare(model, usage.same_inputs[0], View(example, [0], view.prompt))
            torch.manual_seed(0)
            one, two = (method.embed(model, parts, inputs, **view.settings) for _ in range(2))
    finally:
        model.train(was_training)
    if not torch.equal(one, two):
        return None
    first, second = usage.same_inputs
    if model.input_width is not None:
        return (
            f"the views {first!r} and {second!r} are equal: they hold the same vector; change one with method.augment, "
            "for example {positive: [{name: noise, deviation: 0.1}]}"
        )
    return (
        f"the views {first!r} and {second!r} are equal: they hold the same text, and the model has no dropout to tell "
        "them apart; set model.dropout (0.1 in SimCSE), or change a view with method.augment"
    )
