"""What a method's parts start with, where it looks at some of the rows for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from embedkit.data.images.decoding import Decoding, decode_batches
from embedkit.data.schema.roles import IMAGE_ROLES
from embedkit.methods.base import Method

if TYPE_CHECKING:
    from embedkit.data import TrainingRows
    from embedkit.data.datasets.base import RowBatch
    from embedkit.training.parallel.distributed import World


def start(
    method: Method, model: Any, parts: Any, rows: TrainingRows, world: World, say: Callable[[str], None],
    decoding: Decoding | None = None,
) -> None:  # fmt: skip
    """Let a method set its parts from the first rows, on the device of the run; all processes get the first one's.

    Rows with images come decoded, one batch after the other, and without the bad ones where these are skipped.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> from embedkit.training.setup import build_method, open_rows
    >>> from embedkit.training.parallel.distributed import World
    >>> recipe = load_recipe("sccl", smoke=True)
    >>> method, model = build_method(recipe), build(recipe.model, 0)
    >>> parts, rows = method.parts(model), open_rows(recipe, method)
    >>> start(method, model, parts, rows, World(), print)
    the parts of the method start from 256 rows
    """
    if not method.start_rows:
        return
    was_training, batches = model.training, _first(rows, method.start_rows)
    model.to(world.device).eval()
    if rows.roles.isdisjoint(IMAGE_ROLES):
        first = [row for _, batch in batches for row in batch.rows]
        say(f"the parts of the method start from {len(first):,} rows")
        method.learn_start(model, parts, first)
    else:
        most = method.start_rows if rows.num_rows is None else min(method.start_rows, rows.num_rows)
        say(f"the parts of the method start from up to {most:,} rows")
        for _, batch in decode_batches(batches, decoding or Decoding(), rows.where, empty=True):
            method.learn_start(model, parts, batch.rows)
    model.train(was_training)
    for tensor in [*parts.parameters(), *parts.buffers()]:
        mine = tensor.detach().to(world.device)[None]
        whole = world.gather(mine if world.is_main else mine[:0], [1] + [0] * (world.size - 1))
        tensor.data.copy_(whole[0])


def _first(rows: TrainingRows, count: int) -> Iterator[tuple[int, RowBatch]]:
    """The first rows of the first epoch, as many as asked for and there are, each once, in its batches."""
    earlier: set[int] = set()
    for batch in rows.batches(0):  # those of a stream have no end
        new = [place for place, own in enumerate(batch.ids) if own not in earlier][: count - len(earlier)]
        earlier.update(batch.ids[place] for place in new)
        if new:
            yield 0, replace(
                batch, rows=[batch.rows[place] for place in new], ids=[batch.ids[place] for place in new],
                places=[batch.places[place] for place in new],
            )  # fmt: skip
        if len(earlier) >= count or not new:
            return
