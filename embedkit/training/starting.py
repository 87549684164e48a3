"""What a method's parts start with, where it looks at some of the rows for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from embedkit.methods.base import Method

if TYPE_CHECKING:
    from embedkit.data import TrainingRows
    from embedkit.training.parallel.distributed import World


def start(
    method: Method, model: Any, parts: Any, rows: TrainingRows, world: World, say: Callable[[str], None]
) -> None:  # fmt: skip
    """Let a method set its parts from the first rows, on the device of the run; all processes get the first one's.

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
    first: list[Any] = []
    for batch in rows.batches(0):
        first += batch.rows
        if len(first) >= method.start_rows:
            break
    first = first[: method.start_rows]
    say(f"the parts of the method start from {len(first):,} rows")
    was_training = model.training
    method.learn_start(model.to(world.device).eval(), parts, first)
    model.train(was_training)
    for tensor in [*parts.parameters(), *parts.buffers()]:
        mine = tensor.detach().to(world.device)[None]
        whole = world.gather(mine if world.is_main else mine[:0], [1] + [0] * (world.size - 1))
        tensor.data.copy_(whole[0])
