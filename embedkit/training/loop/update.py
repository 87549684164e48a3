"""One optimiser update from the gradients of a step: unscale, pull, clip, AdamW, running means."""

from __future__ import annotations

import torch

from embedkit.training.loop.batches import StepBatch
from embedkit.training.loop.step import TrainStep
from embedkit.training.monitor.nonfinite import FiniteGuard
from embedkit.training.optim.l2sp import StartingPoint
from embedkit.training.state.state import RunState


class Update:
    """Clips and applies gradients; nothing moves when they are not finite.

    Parameters
    ----------
    state : RunState
        Its bundle, optimiser, loss scale and running mean are moved.
    step : TrainStep
        Whose gradients are applied; objective, method and guide advance with it.
    starting : StartingPoint
        Pulls the weights to those of the start.
    finite : FiniteGuard
        Says which step and rows were not finite.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.training import Progress, setup
    >>> from embedkit.training.loop.build import open_inputs, opened
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> with opened(inputs, Path("run"), Progress()) as run:
    ...     batch = next(run.stream)
    ...     norm = run.update.apply(batch, run.step.gradients(batch).loss, factor=1.0)
    >>> bool(norm > 0)
    True
    """

    def __init__(self, state: RunState, step: TrainStep, starting: StartingPoint, finite: FiniteGuard) -> None:
        self.state, self._step, self._starting, self._finite = state, step, starting, finite

    def apply(self, batch: StepBatch, loss: torch.Tensor, factor: float) -> torch.Tensor:
        """The gradient norm () before clipping; rates are the groups' times `factor`, `loss` is a share for messages.

        Raises
        ------
        NonFiniteError
            The norm is not finite, and a smaller loss scale is of no help.
        """
        state, optimiser = self.state, self.state.optimiser
        number = state.position.step + 1
        if state.scale.active:
            optimiser.scale_gradients(1.0 / state.scale.factor)
        self._starting.add_pull(state.bundle)
        norm = optimiser.gradient_norm()
        bad = ~torch.isfinite(norm)
        later = self.refuses_later
        if not later and bool(bad) and not state.scale.can_shrink:
            raise self._finite.refuse(number, batch, loss)
        if state.scale.active and bool(bad):
            state.scale.update(True)
            optimiser.adamw.zero_grad(set_to_none=True)
            return norm
        optimiser.clip(norm)
        optimiser.step(factor, bad.float() if later else None)
        if later:
            self._finite.skipped(number, batch, bad)
        state.scale.update(False)
        self._step.after_update()
        if state.ema is not None:
            state.ema.update(state.bundle)
        return norm

    @property
    def refuses_later(self) -> bool:
        """Whether bad steps are skipped on the device and reported at the next log line, so nothing waits for it."""
        on_device = self._step.world.device.type == "cuda" and self.state.optimiser.can_skip
        return on_device and not self.state.scale.active
