"""Everything that is checked and built before the first step, cheapest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.config.recipe import Recipe
from embedkit.config.sections import Component
from embedkit.config.settings import check as check_settings
from embedkit.data.schema.contract import Contract
from embedkit.data.schema.kinds import is_named
from embedkit.data.schema.roles import INPUT_ROLES, PARTS
from embedkit.errors import RecipeError, moved, nearest, need
from embedkit.methods import methods
from embedkit.methods.base import Method
from embedkit.training.batching import check_first_rows
from embedkit.training.idle import idle_settings
from embedkit.training.layers import widen
from embedkit.training.model_inputs import check_places
from embedkit.training.model_inputs import fitted as fitted_model
from embedkit.training.monitor.trackers import check_trackers
from embedkit.training.view_checks import check_views, look_at_pictures, views_of_one_shape

if TYPE_CHECKING:
    from embedkit.data import TrainingRows
    from embedkit.data.sources.data_source import Source
    from embedkit.methods.common.usage import Usage
    from embedkit.objectives.base import Objective


def build_method(recipe: Recipe) -> Method:
    """The method of a recipe with its settings, and its auxiliaries around it.

    Raises
    ------
    UserError, RecipeError
        Unknown method (with the nearest name) or setting.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> type(build_method(load_recipe("simcse-unsup"))).__name__
    'SimCSEUnsupervised'
    >>> build_method(load_recipe("simcse-unsup", ["method=simcse-unsub"]))
    Traceback (most recent call last):
    embedkit.errors.UserError: unknown method 'simcse-unsub'; did you mean 'simcse-unsup'?
    """
    from embedkit.methods.common.auxiliary import Auxiliary, WithAuxiliaries

    main = _method(recipe.method, "method")
    beside = []
    for number, component in enumerate(recipe.auxiliary):
        settings = dict(component.settings)
        scale = {key: settings.pop(key) for key in ("weight", "decay", "decay_steps") if key in settings}
        where = f"auxiliary.{number}"
        beside.append(
            Auxiliary(_method(Component(name=component.name, **settings), where), component.name, where, **scale)
        )
    method = WithAuxiliaries(main, beside) if beside else main
    main.use_model(recipe.model)
    method.use_guide(recipe.guide)
    return method


def _method(component: Component, where: str) -> Method:
    cls = methods[component.name]
    settings = check_settings(cls, {k: v for k, v in component.settings.items() if k != "augment"}, where, ["augment"])
    if "augment" in component.settings:
        from embedkit.methods.common.augmenting import augmented

        cls = augmented(cls, component.settings["augment"])
    with moved("method", where):
        return cls(**settings)


def objective_config(recipe: Recipe, method: Method) -> dict[str, Any]:
    """The objective of a run: the recipe's, over the method's own; empty when there is none.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> recipe = load_recipe("pairs", ["objective.temperature=0.1"])
    >>> objective_config(recipe, build_method(recipe))
    {'name': 'infonce', 'temperature': 0.1}
    """
    own = method.objective or {}
    if recipe.objective is None:
        return method.objective_of(dict(own))
    name = recipe.objective.name or own.get("name")
    if name is None:
        raise RecipeError(
            f"method {recipe.method.name!r} has no objective of its own", where="objective",
            remedy="name one: objective.name=infonce",
        )  # fmt: skip
    config = {"name": name, **recipe.objective.settings}
    return method.objective_of({**own, **config} if config["name"] == own.get("name") else config)


def build_objective(recipe: Recipe, method: Method, dim: int | None = None, rows: int | None = None) -> Objective:
    """The objective with its settings; without `dim` and `rows` it is only checked.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> recipe = load_recipe("pairs", ["objective=cosent"])
    >>> sorted(build_objective(recipe, build_method(recipe)).requires)
    ['anchor', 'positive', 'score']
    """
    from embedkit import objectives

    config = objective_config(recipe, method)
    if not config:
        from embedkit.objectives.base import NoObjective

        return NoObjective()
    return objectives.build(config, dim=dim, num_rows=rows)


@dataclass(frozen=True)
class EarlyCheck:
    """What `check_early` has made and opened, for the run that follows it.

    Attributes
    ----------
    sources : sequence of Source
        Those of ``data.train``, with the columns bound to the roles of the method; not yet read in full.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> [source.name for source in check_early(load_recipe("quickstart", smoke=True)).sources]
    ['builtin:pairs-train']
    """

    method: Method
    sources: Sequence[Source]


@dataclass(frozen=True)
class Checked:
    """A recipe whose names fit each other, and what was made to find out; nothing heavy is read yet.

    Attributes
    ----------
    sources : sequence of Source or None
        Those of ``data.train`` where an early check has opened them.
    contract : Contract
        The roles that something reads; those required that the objective cannot do without.
    metric : str or None
        The score that chooses the best checkpoint.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> checked = check_all(load_recipe("simcse-unsup"))
    >>> checked.metric, sorted(checked.contract.requires)
    ('sts/stsb', ['anchor'])
    """

    recipe: Recipe
    method: Method
    contract: Contract
    metric: str | None
    sources: Sequence[Source] | None = None


def check(recipe: Recipe) -> Method:
    """The method of a recipe whose names and settings fit each other; errors as in `check_all`.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> check(load_recipe("pairs")).paper
    'van den Oord et al. 2018, arXiv 1807.03748'
    """
    return check_all(recipe).method


def check_all(recipe: Recipe, early: EarlyCheck | None = None) -> Checked:
    """Method, roles and metric of a recipe, checked against each other; what `early` has made is not made again.

    Raises
    ------
    UserError, RecipeError
        An unknown name or setting, an objective that the views cannot feed, a tracker that is not installed.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> sorted(check_all(load_recipe("pairs")).contract.accepts)
    ['group', 'negatives']
    >>> check_all(load_recipe("pairs", ["guide.ema=0.9"]))
    Traceback (most recent call last):
    embedkit.errors.RecipeError: guide: nothing reads the guide, neither the method nor objective 'infonce'; ...
    """
    method = build_method(recipe) if early is None else early.method
    objective = build_objective(recipe, method)
    widen(method, objective)
    contract = contract_of(recipe, method, objective)
    check_views(recipe, method, objective, objective_config(recipe, method), contract)
    metric = metric_of(recipe)
    _need_adapters(recipe)
    check_trackers(recipe)
    return Checked(recipe, method, contract, metric, None if early is None else early.sources)


def _need_adapters(recipe: Recipe) -> None:
    """Ask for peft before anything is read, where a model or tower of the recipe has adapters."""
    adapters = {"model.lora": recipe.model.lora}
    if recipe.model.towers is not None:
        for name, tower in (("text", recipe.model.towers.text), ("image", recipe.model.towers.image)):
            adapters[f"model.towers.{name}.lora"] = tower.lora if tower is not None else None
    for key, adapter in adapters.items():
        if adapter is not None:
            need("peft", "lora", key)


def metric_of(recipe: Recipe) -> str | None:
    """The metric that chooses the best checkpoint, checked against the names the suite gives.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> metric_of(load_recipe("simcse-unsup"))
    'sts/stsb'
    >>> metric_of(load_recipe("simcse-unsup", ["evaluation.metric=sts/stsbb"]))
    Traceback (most recent call last):
    embedkit.errors.RecipeError: evaluation.metric: unknown metric 'sts/stsbb'; did you mean 'sts/stsb'?
    """
    if recipe.evaluation is None:
        return None
    from embedkit.evaluation import main_metric, metric_names

    config = recipe.evaluation
    names = metric_names(config.suite, config.tasks, config.split, config.data)
    if config.metric is None:
        return main_metric(config.suite, config.tasks, config.split, config.data)
    if config.metric not in names:
        raise RecipeError(
            f"unknown metric {config.metric!r}", where="evaluation.metric", remedy=nearest(config.metric, names)
        )
    return config.metric


def contract_of(recipe: Recipe, method: Method, objective: Objective | None = None) -> Contract:
    """The roles that method or objective read, those required that the objective cannot do without.

    Raises
    ------
    RecipeError
        Something that is given has no reader, or the objective cannot work with the method's views.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> recipe = load_recipe("pairs", ["objective=cosent"])
    >>> sorted(contract_of(recipe, build_method(recipe)).requires)
    ['anchor', 'positive', 'score']
    """
    from embedkit.methods.common.usage import usage_of

    own = method.contract
    objective = build_objective(recipe, method) if objective is None else objective
    usage = usage_of(
        method, objective_config(recipe, method), own.roles, guide=recipe.guide is not None, optional=True,
        lenient=_is_old(recipe),
    )  # fmt: skip
    needed = objective.requires & own.roles - method.provides - method.gives
    limits = dict(own.limits)
    for part in objective.modules():
        limits |= getattr(part, "limits", {})
    return Contract(own.requires | needed, own.accepts & usage.roles - needed, limits)


def check_early(recipe: Recipe) -> EarlyCheck:
    """The method and the opened sources of a recipe, checked while nothing heavy is imported.

    A wrong setting of the method, file or row is then reported in about a second. `check_all` and `open_rows` take
    the result over: the method is built once, and each source is opened once in a run. What the objective reads is
    known only after torch is imported, so its roles are bound then, to the rows that are open already.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> early = check_early(load_recipe("quickstart", smoke=True))
    >>> type(early.method).__name__, len(early.sources)
    ('Pairs', 1)
    """
    from embedkit.data.datasets.open import open_sources

    method = build_method(recipe)
    mapped = {PARTS.get(role, role) for source in recipe.data.train for role in (source.columns or {}).values()}
    mapped |= set(filter(is_named, method.contract.accepts))
    contract = replace(method.contract, accepts=method.contract.accepts & (INPUT_ROLES | mapped))
    return EarlyCheck(method, open_sources(recipe.data, contract, Path.cwd()))


def open_rows(
    recipe: Recipe, method: Method, contract: Contract | None = None, sources: Sequence[Source] | None = None
) -> TrainingRows:
    """The training rows, checked against what the method and its objective need.

    `contract` and `sources` are those of `check_all`; they are found and opened here where they are not given.

    A share of them is held out where `holdout_share` says so, and batches are smaller than those of a shipped recipe
    where few rows do not fill one; see `as_opened`.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> recipe = load_recipe("quickstart", smoke=True)
    >>> rows = open_rows(recipe, build_method(recipe))
    >>> rows.num_rows, rows.steps_per_epoch, sorted(rows.roles)
    (256, 16, ['anchor', 'positive'])
    """
    from embedkit.data import open_training

    contract = contract_of(recipe, method) if contract is None else contract
    rows = open_training(
        recipe.data, contract, batch_size=recipe.train.batch_size, seed=recipe.seed, base_dir=Path.cwd(),
        holdout=holdout_share(recipe), fit_batch=not recipe.origin.has("train.batch_size"), sources=sources,
    )  # fmt: skip
    _usage_of_rows(recipe, method, rows)
    method.learn_targets(rows.targets())
    check_first_rows(method, rows)
    method.check_data(rows)
    look_at_pictures(recipe, method, rows)
    for line in idle_settings(recipe):
        rows.add_note(line)
    return rows


def holdout_share(recipe: Recipe) -> float:
    """Share of the rows to hold out: ``train.holdout``, unless it is a shipped recipe's and an evaluation is configured
    or switched off.

    >>> from embedkit.config.recipe_io import load_recipe
    >>> holdout_share(load_recipe("pairs")), holdout_share(load_recipe("pairs", ["evaluation=null"]))
    (0.1, 0.0)
    """
    own = recipe.origin
    replaced = recipe.evaluation is not None or own.has("evaluation")
    return 0.0 if replaced and not own.has("train.holdout") else recipe.train.holdout


def as_opened(recipe: Recipe, rows: TrainingRows) -> Recipe:
    """The recipe with what opening its data has decided: size of a batch, share that is held out, width of vectors.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.config.recipe_io import load_recipe
    >>> recipe = load_recipe("pairs")
    >>> fitted = as_opened(recipe, SimpleNamespace(batch_size=8, widths={}, roles=frozenset(), kinds={}))
    >>> recipe.train.batch_size, fitted.train.batch_size
    (64, 8)
    """
    check_places(recipe.model, rows)
    train = recipe.train.model_copy(update={"batch_size": rows.batch_size, "holdout": holdout_share(recipe)})
    return recipe.model_copy(
        update={"train": train, "model": fitted_model(recipe.model, rows.widths, rows.roles, rows.kinds)}
    )


def _usage_of_rows(recipe: Recipe, method: Method, rows: TrainingRows) -> Usage:
    """What the run reads of its rows, now that their roles are known; errors as in `contract_of`."""
    from embedkit.methods.common.usage import usage_of

    roles = frozenset(rows.roles) & method.contract.roles
    config, guided = objective_config(recipe, method), recipe.guide is not None
    return usage_of(method, config, roles, guide=guided, lenient=_is_old(recipe))


def _is_old(recipe: Recipe) -> bool:
    """Whether a recipe has keys of the version before, in which nothing was refused for having no reader."""
    return bool(recipe.origin.notes)


def begin(
    recipe: Recipe, method: Method, objective: Objective, rows: TrainingRows, dim: int, guide_dim: int | None
) -> None:
    """Tell an objective what batches will hold, once, before its first step and before a resume.

    Parameters
    ----------
    dim, guide_dim : int
        Size of the embeddings, and of the guide's own vectors when there is one.

    Raises
    ------
    UserError
        The objective compares embeddings with the guide's vectors, and these have another size.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.config.recipe_io import load_recipe
    >>> recipe = load_recipe("pairs", ["objective=embedding-mse", "guide.ema=0.9"])
    >>> method, rows = build_method(recipe), SimpleNamespace(roles={"anchor", "positive"})
    >>> begin(recipe, method, build_objective(recipe, method), rows, dim=8, guide_dim=16)
    Traceback (most recent call last):
    embedkit.errors.UserError: objective: the guide's vectors of 'anchor' have 16 columns, the embeddings 8; ...
    """
    from embedkit.methods.common.usage import check_guide_size

    size = None if guide_dim is None else method.guide_dim(guide_dim)
    if size not in (None, dim):
        check_guide_size(method, objective_config(recipe, method), frozenset(rows.roles), dim, size)
    objective.begin(frozenset(rows.roles) | method.gives, size)


def notes_of_model(recipe: Recipe, method: Method, rows: TrainingRows, model: Any, parts: Any) -> list[str]:
    """Lines on what only the model can tell: views that nothing but dropout tells apart, and it has none.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> recipe = load_recipe("quickstart", smoke=True)
    >>> method = build_method(recipe)
    >>> notes_of_model(recipe, method, open_rows(recipe, method), build(recipe.model, 0), None)
    []
    """
    from embedkit.methods.common.usage import equal_views

    usage = _usage_of_rows(recipe, method, rows)
    note = equal_views(method, usage, model, parts)
    notes = [*usage.notes, *([] if note is None else [f"{recipe.method.name}: {note}"])]
    names = views_of_one_shape(method, usage, model)
    if getattr(model, "untrained_text", False) and any(p.requires_grad for p in model.text.parameters()):
        notes.append(f"{recipe.model.name}: was trained on images alone, so its text tower ({model.text.kind}, "
                     f"{model.text.dim} numbers) has learnt nothing of them yet: it is trained from there")  # fmt: skip
    if names:
        high, wide = model.preprocess.size
        notes.append(f"all images of {', '.join(names)} are {high} x {wide}: patches of images are compared, or images "
                     "mixed or turned, so preprocess.patch has no effect there")  # fmt: skip
    return notes


def most_negatives(rows: TrainingRows) -> int:
    """Most hard negatives of a row; 1 for a stream whose rows have some, how many is not known.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> most_negatives(SimpleNamespace(roles={"anchor", "negatives"}, summary=lambda: {"hard_negatives": {"max": 7}}))
    7
    """
    most = rows.summary().get("hard_negatives", {}).get("max")
    return int("negatives" in rows.roles) if most is None else int(most)


_MANY_ROWS = 1024


def check_batch(recipe: Recipe, objective: Objective, rows: TrainingRows) -> None:
    """Refuse a batch that is too small for an objective that compares rows, or sets of them, to compare any.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.config.recipe_io import load_recipe
    >>> recipe = load_recipe("pairs", ["train.batch_size=1"])
    >>> rows = SimpleNamespace(roles={"anchor", "positive"}, summary=dict)
    >>> check_batch(recipe, build_objective(recipe, build_method(recipe)), rows)
    Traceback (most recent call last):
    embedkit.errors.RecipeError: train.batch_size: a batch of 1 has no negatives, so nothing would be learned; ...
    """
    from embedkit.objectives.base import Memory

    hard = most_negatives(rows)
    size = recipe.train.batch_size
    negatives = {rows: objective.negatives(rows, hard, 1).total for rows in (size, _MANY_ROWS)}
    if negatives[size] == 0 < negatives[_MANY_ROWS]:
        needed = next(rows for rows in range(size, _MANY_ROWS + 1) if objective.negatives(rows, hard, 1).total)
        raise RecipeError(
            f"a batch of {size} has no negatives, so nothing would be learned", where="train.batch_size",
            remedy=f"take {needed} at least, or an objective without negatives",
        )  # fmt: skip
    least = max((part.least_rows for part in objective.modules() if isinstance(part, Memory)), default=1)
    if size < least:
        raise RecipeError(
            f"a batch of {size} rows cannot start {least} clusters", where="train.batch_size",
            remedy=f"take {least} at least, or fewer objective.clusters",
        )  # fmt: skip
