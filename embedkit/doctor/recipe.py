"""Recipes: the rows as they are read, texts of training in the evaluation, and one small step of the model."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.doctor.data import plain, score_findings
from embedkit.doctor.finding import Examined, Finding
from embedkit.errors import NonFiniteError, UserError

if TYPE_CHECKING:
    from embedkit.config.recipe import Recipe
    from embedkit.data import TrainingRows
    from embedkit.methods.base import Method

_ROWS = 16
_STEPS = 4


def examine_recipe(recipe: Recipe) -> Examined:
    """Facts and findings of a recipe: its training rows, texts that training and evaluation share, a step of the model.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> facts, findings = examine_recipe(load_recipe("quickstart", smoke=True))
    >>> facts["rows"], facts["model"]
    (256, 'one step of it was made')
    """
    from embedkit.training import setup

    method = setup.check(recipe)
    every = recipe.model_copy(update={"data": recipe.data.model_copy(update={"drop_last": False})})
    rows = setup.open_rows(every, method)
    summary = rows.summary()
    facts = {"rows": rows.num_rows, "dropped": summary.get("dropped", {})}
    findings = [
        Finding("rows are left out", f"{count:,} rows: {reason}", "fix the data, or leave it if this is intended")
        for reason, count in summary.get("dropped", {}).items()
    ]
    if rows.num_rows is not None:
        repeated = summary["duplicates"]
        if repeated["positive_is_anchor"] > 0.01 * rows.num_rows:
            share = f"{repeated['positive_is_anchor']:,} of {rows.num_rows:,} rows"
            findings.append(Finding("positives equal their anchors", share, "drop these rows"))
        if repeated["anchors"] > 0.2 * rows.num_rows and recipe.data.sampler == "shuffled":
            share = f"{repeated['anchors']:,} of {rows.num_rows:,} anchors occurred before"
            findings.append(Finding("anchors repeat", share, "set data.sampler=no-duplicates"))
        every_row = [row for batch in rows.batches(0) for row in batch.rows]
        findings += _scores(every_row)
        if recipe.evaluation is not None:
            findings += _overlap(recipe, (text for row in every_row for text in _texts(row)))
    findings += order_findings(rows)
    findings += _as_a_run(recipe, method)
    findings += _checkpoint(recipe)
    outcome = one_step(recipe, method, rows)
    facts["model"] = outcome if isinstance(outcome, str) else "one step of it was made"
    return facts, findings if isinstance(outcome, str) else [*findings, *outcome]


def _as_a_run(recipe: Recipe, method: Method) -> Iterator[Finding]:
    """What a run says of its data: rows that come into no batch, columns that nobody reads, guesses."""
    from embedkit.training import setup

    try:
        rows = setup.open_rows(recipe, method)
    except UserError as error:
        yield Finding("a run would refuse the data", error.line(), error.remedy or "read the line")
        return
    for note in dict.fromkeys([*recipe.origin.notes, *rows.notes]):
        yield Finding("the data is read so", note, "set it otherwise if this is not meant")


def _texts(row: Any) -> Iterator[str]:
    for value in row.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (item for item in value if isinstance(item, str))


def _scores(rows: list[Any]) -> Iterator[Finding]:
    pairs = [row for row in rows if isinstance(row.get("anchor"), str) and isinstance(row.get("positive"), str)]
    return score_findings("score", [(row["anchor"], row["positive"], row["score"]) for row in pairs if "score" in row])


def _overlap(recipe: Recipe, texts: Iterable[str]) -> Iterator[Finding]:
    from embedkit.evaluation import OpenSuite, open_suite

    assert recipe.evaluation is not None
    config = recipe.evaluation
    training_texts: set[str] = set()
    for split in dict.fromkeys([config.split, "test"]):
        try:
            suite = open_suite(config.suite, config.data, config.tasks, split, settings=config.settings)
            if not isinstance(suite, OpenSuite):
                return
            items = [item for task in suite.tasks for request in task.requests() for item in request.items]
        except UserError as error:  # the suite has no such split, or its data is not here
            where = f"{error.where}: " if error.where else ""
            yield Finding(
                f"evaluation texts of split {split!r} were not looked for in the training data",
                f"{where}{error.what}",
                error.remedy or "check evaluation.suite and evaluation.data",
            )
            continue
        scored = {plain(item) for item in items if isinstance(item, str) and len(item.split()) > 3}
        training_texts = training_texts or {plain(text) for text in texts}
        common = scored & training_texts
        if common:
            yield Finding(
                f"evaluation texts of split {split!r} are in the training data",
                f"{len(common):,} of {len(scored):,} texts, e.g. {min(common)[:60]!r}",
                "leave these rows out of training (data.train.N.where), or the score is too high",
            )


def order_findings(rows: TrainingRows) -> Iterator[Finding]:
    """A finding where the batches of two processes, put together, are not those of one.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.training import setup
    >>> recipe = load_recipe("quickstart", smoke=True)
    >>> list(order_findings(setup.open_rows(recipe, setup.check(recipe))))
    []
    """
    whole = list(itertools.islice(rows.batches(0), _STEPS))
    parts = [list(itertools.islice(rows.batches(0, rank=rank, world=2), _STEPS)) for rank in range(2)]
    for step, batch in enumerate(whole):
        ids = [i for part in parts if step < len(part) for i in part[step].ids]
        if batch.size > 1 and ids != batch.ids:
            yield Finding(
                "the order of the data depends on the number of processes",
                f"step {step + 1}: rows {batch.ids[:4]} ... in one process, {ids[:4]} ... in two",
                "a source gives other rows each time it is opened: put it into a file",
            )
            return


def _checkpoint(recipe: Recipe) -> Iterator[Finding]:
    """What the recipe sets otherwise than the model folder that it starts from."""
    from embedkit.doctor.settings import differences
    from embedkit.formats.detect import inspect

    name = recipe.model.name
    if name is None or not Path(name).is_dir():
        return
    plan = inspect(Path(name))
    settings = recipe.model.model_dump(exclude_none=True)
    yield from differences(plan.spec, settings, "the recipe", str(name))


def one_step(recipe: Recipe, method: Method, rows: TrainingRows) -> list[Finding] | str:
    """Findings from the gradients of a step on a few rows; in words why none was made, when the model is not here.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.training import setup
    >>> recipe = load_recipe("quickstart", smoke=True)
    >>> method = setup.check(recipe)
    >>> one_step(recipe, method, setup.open_rows(recipe, method))
    []
    """
    if method.caches_images:
        return "not tried: the method needs the vectors of all images first"
    try:
        gradients, cut = _gradients(recipe, method, rows)
    except NonFiniteError as error:
        return [Finding("the first step is not finite", error.what, error.remedy or "take another checkpoint")]
    except UserError as error:
        return f"not tried: {error.line()}"
    findings = []
    if cut:
        findings.append(
            Finding(
                "texts are cut at the model's length",
                f"{cut:.1%} of the texts of a sample reach it",
                "raise model.max_length where the model allows more, or cut the texts into passages",
            )
        )
    unused = [name for name, norm in gradients.items() if norm is None]
    if unused:
        findings.append(
            Finding(
                "trainable parameters that a step does not use",
                f"{len(unused)} of {len(gradients)} tensors, first {unused[0]}",
                "freeze them (train.groups, frozen: true), or check the method: they never learn",
            )
        )
    for tower in ("model.text.", "model.image."):
        own = {name: norm for name, norm in gradients.items() if name.startswith(tower)}
        if own and not any(own.values()):
            findings.append(
                Finding(
                    f"no gradient reaches the {tower.split('.')[1]} tower",
                    f"{len(own)} tensors, all without gradient",
                    "check the objective (detach) and the tower's activations",
                )
            )
    return findings


def _gradients(
    recipe: Recipe, method: Method, rows: TrainingRows
) -> tuple[dict[str, float | None], float | None]:  # fmt: skip
    """Norm of the gradient of every trainable parameter after a step on a few rows, None where there is none; and the
    share of texts that are cut."""
    import torch

    from embedkit.data.images.decoding import decode_batches
    from embedkit.factory import build
    from embedkit.training import batching, setup
    from embedkit.training.loop.batches import prepare
    from embedkit.training.loop.cache import Chunking
    from embedkit.training.loop.guide import Guide
    from embedkit.training.loop.step import Bundle, TrainStep
    from embedkit.training.monitor.summary import cut_share
    from embedkit.training.optim.optimizer import assign_groups
    from embedkit.training.parallel.distributed import World

    torch.manual_seed(recipe.seed)
    model = build(recipe.model, recipe.seed)
    method.adapt(model)
    parts = method.parts(model)
    objective = setup.build_objective(recipe, method, method.embedding_dim(model), rows.num_rows)
    guide = Guide(recipe.guide, model, method.followed_parts(parts)) if recipe.guide is not None else None
    bundle = Bundle(model, parts, objective, guide)
    assign_groups(bundle, recipe.train, frozenset(f"objective.{n}" for n in objective.no_weight_decay))
    bundle.train()
    step = TrainStep(bundle, method, World(), Chunking(), autocast=contextlib.nullcontext)
    first = ((0, _shortened(batch)) for batch in itertools.islice(rows.batches(0), 1))
    for _, batch in decode_batches(first, batching.decoding(recipe, method, model), rows.where):
        step.gradients(prepare(batch, method, model, seed=recipe.seed, epoch=0))
    parameters = [(name, p) for name, p in bundle.named_parameters() if p.requires_grad]
    norms = {name: None if p.grad is None else float(p.grad.norm()) for name, p in parameters}
    return norms, cut_share(rows, method, model)


def _shortened(batch: Any) -> Any:
    fields = {name: getattr(batch, name)[:_ROWS] for name in ("rows", "ids", "places")}
    return replace(batch, size=len(fields["rows"]), **fields)
