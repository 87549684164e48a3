"""When a run logs, evaluates, saves and ends: pure functions of its settings and of where it stands."""

from __future__ import annotations

from dataclasses import dataclass

from embedkit.config.recipe import EvaluationConfig, TrainConfig
from embedkit.training.state.state import RunState

_STREAM_STEPS = 1000  # a kill loses no more than these, whatever the length of the run


@dataclass(frozen=True)
class Schedule:
    """The times of a run.

    Attributes
    ----------
    train, evaluation : TrainConfig, EvaluationConfig or None
        Sections of the recipe.
    total : int
        Optimiser steps of the whole run.
    steps_per_epoch : int or None
        None for a stream, whose end is not known.

    Examples
    --------
    >>> from embedkit.config.recipe import TrainConfig
    >>> schedule = Schedule(TrainConfig(max_steps=25, log_every=10), None, total=25, steps_per_epoch=5)
    >>> [step for step in range(1, 26) if schedule.logs(step)]
    [1, 10, 20, 25]
    """

    train: TrainConfig
    evaluation: EvaluationConfig | None
    total: int
    steps_per_epoch: int | None

    def logs(self, number: int) -> bool:
        """Whether step `number` (from 1 on) has a log line: every ``train.log_every``-th, the first and the last."""
        return number % self.train.log_every == 0 or number in (1, self.total)

    def evaluates_at_start(self, state: RunState) -> bool:
        """Whether the untrained model is to be evaluated now."""
        at_start = self.evaluation is not None and self.evaluation.at_start
        return at_start and state.position.step == 0 and not state.history

    def evaluates(self, state: RunState) -> bool:
        """Whether an evaluation is due after the current step."""
        config = self.evaluation
        return config is not None and self._due(state, config.every, config.by_epoch)

    def saves(self, state: RunState, evaluated: bool) -> bool:
        """Whether a checkpoint is due: at each new best, and as ``train.save_every`` says or with each evaluation."""
        every = self.train.save_every
        new_best = evaluated and state.best.step == state.position.step
        return new_best or (evaluated and every is None) or self._due(state, every)

    def over(self, state: RunState) -> bool:
        """Whether all steps are done, or as many evaluations as the patience is were made without a new best."""
        patience = self.evaluation.patience if self.evaluation is not None else None
        return state.position.step >= self.total or (patience is not None and state.idle >= patience)

    def _due(self, state: RunState, every: int | None, by_epoch: bool = False) -> bool:
        position = state.position
        if self.over(state):
            return True
        every = steps_between(every, self.steps_per_epoch, self.total)
        if every is None:
            return position.epoch_step == 0
        return (position.epoch_step if by_epoch else position.step) % every == 0


def steps_between(every: int | None, steps_per_epoch: int | None, total: int) -> int | None:
    """Optimiser steps from one evaluation or checkpoint to the next; None where each waits for the end of an epoch.

    The end of an epoch of a stream is not known, and a stream of shards has none. There it is a twentieth of the run
    when `every` is not given, and at most 1,000 steps: ``train.max_steps`` may be as good as endless too.

    >>> steps_between(None, None, total=100)
    5
    """
    if every is not None or steps_per_epoch is not None:
        return every
    return max(1, min(total // 20, _STREAM_STEPS))
