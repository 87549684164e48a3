"""One line at the start of a run: how much data there is, and what of it is not as one may think."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.methods.base import Method

if TYPE_CHECKING:
    from embedkit.data import TrainingRows

SAMPLE = 1_000
"""Rows whose texts are tokenised to see how many reach the length limit."""


def summary_line(rows: TrainingRows, total: int, method: Method, model: Any) -> str:
    """The line: rows, steps, and shares that are not zero of cut, repeated and missing texts and of left over rows.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> from embedkit.training import setup
    >>> recipe = load_recipe("quickstart", smoke=True)
    >>> method = setup.build_method(recipe)
    >>> summary_line(setup.open_rows(recipe, method), 4, method, build(recipe.model, 0))
    '256 rows; 4 steps of 16 rows (0.25 epochs)'
    """
    facts = rows.summary()
    count = "a stream of rows" if rows.num_rows is None else f"{rows.num_rows:,} rows"
    parts = [count, *_steps(rows, total)]
    if dropped := facts.get("dropped", {}):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        parts.append(f"{sum(dropped.values()):,} more left out ({reasons})")
    if facts.get("held_out"):
        parts.append(f"{facts['held_out']:,} held out")
    share = cut_share(rows, method, model)
    if share:
        parts.append(f"{share:.1%} of the texts fill all {model.max_length} tokens and are cut there")
    repeated = facts.get("duplicates", {})
    for side in ("anchors", "positives"):
        if repeated.get(side):
            parts.append(f"{repeated[side]:,} duplicate {side}")
    if repeated.get("positive_is_anchor"):
        parts.append(f"{repeated['positive_is_anchor']:,} positives that equal their anchors")
    if facts.get("without_negatives"):
        parts.append(f"{facts['without_negatives']:,} rows without hard negatives")
    if left := facts.get("epoch", {}).get("left_over"):
        parts.append(f"{left:,} rows left over in each epoch")
    return "; ".join(parts)


def _steps(rows: TrainingRows, total: int) -> Iterator[str]:
    epochs = None if rows.steps_per_epoch is None else f"{total / rows.steps_per_epoch:.3g}"
    share = "" if epochs is None else f" ({epochs} epoch{'s' * (epochs != '1')})"
    yield f"{total:,} step{'s' * (total != 1)} of {rows.batch_size:,} rows{share}"


def cut_share(rows: TrainingRows, method: Method, model: Any) -> float | None:
    """Share of the texts that reach the model's ``max_length`` tokens, of `SAMPLE` rows spread over the data.

    None where nothing can be counted: for streams, whose rows are not known yet, and rows without texts.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> from embedkit.training import setup
    >>> recipe = load_recipe("quickstart", ["model.max_length=12"], smoke=True)
    >>> method = setup.build_method(recipe)
    >>> cut_share(setup.open_rows(recipe, method), method, build(recipe.model, 0))
    0.87109375
    """
    if rows.num_rows is None or not hasattr(rows, "block") or model.input_width is not None:
        return None
    places = np.unique(np.linspace(0, rows.num_rows - 1, min(SAMPLE, rows.num_rows)).astype(int))
    batch = rows.block(places.tolist())
    cut = total = 0
    for role in ("anchor", "positive", "negatives", "texts"):
        texts = list(_texts(batch.rows, role))
        if texts:
            costs = model.prepare(texts, method.prompt_of(model, role)).costs
            cut, total = cut + int((costs >= model.max_length).sum()), total + len(texts)
    return cut / total if total else None


def _texts(rows: Sequence[Any], role: str) -> Iterator[str]:
    for row in rows:
        value = row.get(role)
        yield from [value] if isinstance(value, str) else value or []
