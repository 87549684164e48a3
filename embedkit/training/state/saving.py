"""Checkpoints of a run: written once a step, after a look at the weights, with the account of samples beside them."""

from __future__ import annotations

from embedkit.config.recipe import Recipe
from embedkit.data import TrainingRows
from embedkit.training.monitor.callbacks import Callbacks
from embedkit.training.monitor.nonfinite import FiniteGuard
from embedkit.training.parallel.distributed import World
from embedkit.training.state.checkpoint import CheckpointStore
from embedkit.training.state.sample_accounting import Ledger
from embedkit.training.state.state import RunState


class Saver:
    """Writes checkpoints of a run.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.training import Progress, setup
    >>> from embedkit.training.loop.build import open_inputs, opened
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> with opened(inputs, Path("run"), Progress()) as run:
    ...     run.saver.save()
    >>> sorted(path.name for path in run.store.at(0).path.iterdir())
    ['complete.json', 'optimiser.safetensors', 'random.safetensors', 'recipe.yaml', 'state.json', 'weights.safetensors']
    """

    def __init__(
        self, recipe: Recipe, rows: TrainingRows, state: RunState, store: CheckpointStore, world: World,
        finite: FiniteGuard, ledger: Ledger, callbacks: Callbacks,
    ) -> None:  # fmt: skip
        self._recipe, self._rows, self._state, self._store = recipe, rows, state, store
        self._world, self._finite, self._ledger, self._callbacks = world, finite, ledger, callbacks
        self._latest: int | None = None

    def save(self) -> None:
        """Write a checkpoint of this step, once: a whole one is never replaced, not even by its equal."""
        step = self._state.position.step
        if self._latest == step:
            return
        self._finite.check()
        self._finite.check_weights(step, self._state.bundle)
        checkpoint = self._state.save(self._store, self._recipe, self._rows.fingerprint, self._world)
        self._ledger.write(step, self._state.samples.gathered(self._world), self._rows)
        self._latest = step
        if checkpoint is not None:
            self._callbacks.checkpoint(step, checkpoint.path)
