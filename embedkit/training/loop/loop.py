"""The loop. `loop` reads from top to bottom: batch, gradients, update, log, evaluate, checkpoint, stop.

What a run is made of is put together once, in `embedkit.training.loop.build`; the steps below only use it. The batches
come epoch after epoch without a seam: ``batch.epoch`` and ``batch.step`` say where in the data a batch stands.
"""

from __future__ import annotations

from pathlib import Path

import torch

from embedkit.errors import UserError
from embedkit.training.loop.batches import StepBatch
from embedkit.training.loop.build import Run
from embedkit.training.loop.step import StepResult
from embedkit.training.optim.optimizer import schedule_factor


class Interrupted(UserError):
    """The run was asked to stop and has saved a checkpoint; exit code 143 (SIGTERM) or 130 (SIGINT).

    Examples
    --------
    >>> print(Interrupted(120, Path("runs/pairs"), 143))
    runs/pairs: stopped after step 120, saved; resume it with --resume
    """

    def __init__(self, step: int, output: Path, exit_code: int) -> None:
        super().__init__(f"stopped after step {step}, saved", where=str(output), remedy="resume it with --resume")
        self.exit_code = exit_code


def loop(run: Run) -> list[float]:
    """Logged losses of this part of the run; trains to the last step, or until the patience of evaluation ends.

    Raises
    ------
    Interrupted
        After SIGTERM or SIGINT, with a checkpoint of the last finished step.
    NonFiniteError
        A loss, gradient or score is NaN or infinite; the weights are those of the step before.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.training import Progress, setup
    >>> from embedkit.training.loop.build import open_inputs, opened
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> with opened(inputs, Path("run"), Progress()) as run:
    ...     losses = loop(run)
    >>> len(losses), run.state.position.step
    (4, 4)
    """
    state, schedule = run.state, run.schedule
    losses: list[float] = []
    run.progress.start(run.total, state.position.step)
    if schedule.evaluates_at_start(state):
        run.evaluator.evaluate()
        run.saver.save()

    while not schedule.over(state):
        batch = next(run.stream)
        number = state.position.step + 1  # of this optimiser step, from 1 on
        factor = schedule_factor(state.position.step, run.total, run.recipe.train)
        state.bundle.train()

        earlier = None
        for batch.turn in range(run.inputs.method.turns):
            # forward, loss and backward: exact for any number of chunks and processes
            with run.finite.named(number, batch):
                result = run.step.gradients(batch)
            result.metrics |= run.guards.step(run.step.latest, schedule.logs(number))

            # clipping, AdamW, running means
            norm = run.update.apply(batch, result.loss, factor)
            earlier = result = result.after(earlier)
        state.advance(batch, run.rows.steps_per_epoch)
        run.ledger.add(number, batch)

        figures = _log(run, number, batch, result, norm, factor)
        losses += [figures["loss"]] if figures is not None else []

        evaluated = schedule.evaluates(state)
        if evaluated:
            run.evaluator.evaluate()
        if schedule.saves(state, evaluated):
            run.saver.save()
        _stop_if_asked(run)

    run.guards.finish()
    return losses


def _log(
    run: Run, number: int, batch: StepBatch, result: StepResult, norm: torch.Tensor, factor: float
) -> dict[str, float] | None:
    """The figures since the last log line at a log step, else None; nothing waits for the device in between."""
    run.log.add(result, batch)
    figures = None
    if run.schedule.logs(number):
        extra = {"lr": factor * run.recipe.train.lr, "gradient_norm": float(norm)}
        figures = run.log.write(number, extra | run.guards.figures() | run.state.scale.figures())
        run.finite.check()
    run.progress.step(number, figures)
    run.callbacks.step(number, figures)
    if figures is not None:
        run.guards.check(number, figures)
    return figures


def _stop_if_asked(run: Run) -> None:
    """End the run after a step in which any process was asked to, with a checkpoint."""
    if run.step.stop or (run.engine.world.size == 1 and run.stop.code is not None):
        run.saver.save()
        raise Interrupted(run.state.position.step, run.folder, run.stop.code or 143)
