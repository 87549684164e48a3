"""The run: set-up, loop, evaluation, checkpoints, the saved model. Read `Run.loop` from top to bottom."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedkit.disk import FolderLock, write_durably
from embedkit.errors import CheckpointError, RecipeError, UserError
from embedkit.evaluation.report.card import card_of_run, keep_report
from embedkit.recipe import Recipe
from embedkit.recipe_io import dump_recipe, load_recipe
from embedkit.training import setup
from embedkit.training.loop.batches import StepBatch, prepare
from embedkit.training.loop.cache import Chunking, RandomState
from embedkit.training.loop.guide import Guide
from embedkit.training.loop.step import Bundle, TrainStep
from embedkit.training.monitor.guards import Guards
from embedkit.training.monitor.log import Progress, RichProgress, RunLog
from embedkit.training.monitor.nonfinite import FiniteGuard
from embedkit.training.optim.l2sp import StartingPoint
from embedkit.training.optim.optimizer import Optimiser, RunningMean, assign_groups, schedule_factor
from embedkit.training.optim.precision import LossScale, autocast, choose_precision
from embedkit.training.optim.scale import keep_scale, start_scale
from embedkit.training.parallel.distributed import World
from embedkit.training.parallel.engine import Engine
from embedkit.training.parallel.signals import StopRequest, lost_process
from embedkit.training.state.checkpoint import CheckpointStore
from embedkit.training.state.sample_accounting import Ledger
from embedkit.training.state.state import Best, RunState, load_weights

if TYPE_CHECKING:
    from embedkit.training.loop.image_cache import ImageCache


class Interrupted(UserError):
    """The run was asked to stop and has saved a checkpoint; exit code 143 (SIGTERM) or 130 (SIGINT)."""

    def __init__(self, step: int, output: Path, exit_code: int) -> None:
        super().__init__(f"stopped after step {step}, saved", where=str(output), remedy="go on with --resume")
        self.exit_code = exit_code


@dataclass
class TrainResult:
    """What a finished run gives.

    Attributes
    ----------
    output : Path
        The saved model folder.
    steps : int
        Optimiser steps of the run.
    loss : float
        Mean loss of the steps since the last log line (the last step at least).
    losses : list of float
        Mean loss at every log step of this process's part of the run.
    scores : dict of str to float
        The last evaluation that was made of the saved weights, ``suite/task`` -> score.
    best : dict
        ``metric``, ``value`` and ``step`` of the best evaluation.
    """

    output: Path
    steps: int
    loss: float
    losses: list[float] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = (), *, smoke: bool = False,
    resume: bool = False, output: str | Path | None = None, progress: Progress | None = None,
) -> TrainResult:  # fmt: skip
    """Run a recipe: train, evaluate, keep checkpoints, save the model.

    Parameters
    ----------
    recipe, overrides, smoke
        As in `embedkit.recipe_io.load_recipe`.
    resume : bool
        Go on from the newest complete checkpoint in the output folder; start anew when there is none.
    output : str or Path, optional
        Folder of the run instead of ``train.output``.
    progress : Progress, optional
        Where progress is shown; a rich bar on standard error when not given.

    Raises
    ------
    UserError
        Everything a user can mend, before the model loads where that is possible.
    """
    loaded = load_recipe(recipe, overrides, smoke=smoke)
    folder = Path(output) if output is not None else Path(loaded.train.output.replace("{name}", loaded.name))
    setup.check(loaded)
    _check_folder(folder, resume)
    with contextlib.ExitStack() as held:
        try:
            run = Run(loaded, folder, progress or RichProgress())
            held.callback(run.close)
            return run.start(resume)
        except RuntimeError as error:
            lost = lost_process(error, str(folder), "mend it, and go on from the last checkpoint with --resume")
            raise lost or error from error


def _check_folder(folder: Path, resume: bool) -> None:
    try:
        used = folder.is_dir() and any(folder.glob("checkpoints/step-*"))
        there = folder.exists()
    except (OSError, ValueError) as error:  # too long, NUL, no permission
        said = getattr(error, "strerror", None) or error
        raise CheckpointError(f"not a usable path ({said})", where=str(folder)[:200], remedy="check it") from error
    if there and not folder.is_dir():
        raise CheckpointError("is not a folder", where=str(folder), remedy="give another train.output")
    if not resume and (used or (folder / "model").exists()):
        raise CheckpointError(
            "the output folder holds a run", where=str(folder), remedy="add --resume, or give another train.output"
        )


class Run:
    """One training run. `start` builds everything, `loop` trains, `finish` saves; nothing is held before `start`."""

    def __init__(self, recipe: Recipe, folder: Path, progress: Progress) -> None:
        self.recipe, self.folder = recipe, folder
        self.method = setup.check(recipe)
        self.metric = setup.metric_of(recipe)
        self.suite = self._open_suite()
        self.rows = setup.open_rows(recipe, self.method)
        self.total = setup.total_steps(recipe, self.rows)
        if recipe.train.threads is not None:
            torch.set_num_threads(recipe.train.threads)
        self.engine = Engine(recipe, folder)
        self.world: World = self.engine.world
        self.progress = progress if self.world.is_main else Progress()
        setup.check_shares(self.rows.smallest_batch, self.world.size)
        self.precision = choose_precision(recipe.train.precision, self.world.device)
        self._lock: FolderLock | None = None
        self._stop = StopRequest()
        self._saved: int | None = None
        self._threads: ThreadPoolExecutor | None = None

    def _open_suite(self) -> Any:
        from embedkit.evaluation import open_suite

        config = self.recipe.evaluation
        if config is None:
            return None
        return open_suite(config.suite, config.data, config.tasks, config.split, settings=config.settings)

    def start(self, resume: bool) -> TrainResult:
        """Build the parts, go back to a checkpoint when asked to, and train to the end."""
        if self.world.is_main:
            self._lock = FolderLock(self.folder, "wait for it, or give another train.output")
            _check_folder(self.folder, resume)  # again: another run may have filled it before this one had the lock
        setup.check_same(self.world, self.recipe, self.rows)
        for note in self.rows.notes:
            self.progress.say(note)
        self.state = self._build()
        self.store = CheckpointStore(self.folder / "checkpoints", self.recipe.train.keep_checkpoints)
        self.images = self._image_cache()
        self.ledger = Ledger(self.folder, self.world, self.recipe.data.on_bad_row == "quarantine")
        self.step = TrainStep(
            self.state.bundle, self.method, self.world, self._chunking(),
            autocast=autocast(self.precision, self.world.device), loss_scale=lambda: self.state.scale.factor,
            defer_sync=self.engine.defer_sync, total_steps=self.total, equal_passes=self.engine.sharded,
            asked_to_stop=lambda: self._stop.code is not None,
        )  # fmt: skip
        self.finite = FiniteGuard(self.folder, self.world, self.store, self.step, self.rows.where)
        self.guards = Guards(
            self.recipe.train, self.state.bundle.objective, self.world, self.total, setup.most_negatives(self.rows),
            self.progress.say,
        )  # fmt: skip
        self._seed_process()
        if resume:
            self._resume()
        if self.world.is_main:
            self.store.sweep()
            if (full := self.store.space_note(self.state.nbytes)) is not None:
                self.progress.say(full)
            write_durably(self.folder / "recipe.yaml", dump_recipe(self.recipe).encode())
        self.engine.start_trackers(self.recipe)
        with self._stop, contextlib.closing(self._stream()) as stream:
            losses = self.loop(stream)
        return self.finish(losses)

    def loop(self, stream: Any) -> list[float]:
        """Train to the last step or until patience ends; the logged losses of this part of the run."""
        config, state = self.recipe.train, self.state
        log = RunLog(self.folder / "log.jsonl", self.world, self.progress, lambda: stream.waited, self.engine.track)
        log.rewind(state.position.step if state.position.step or state.history else -1)
        self.ledger.rewind(state.position.step)
        self.finite.record = log.record
        self.progress.start(self.total, state.position.step)
        losses: list[float] = []
        evaluation = self.recipe.evaluation
        if evaluation is not None and evaluation.at_start and state.position.step == 0 and not state.history:
            self._evaluate(log)
            self._save()
        while not self._over():
            batch = next(stream)
            number = state.position.step + 1
            at_log = number % config.log_every == 0 or number == self.total
            factor = schedule_factor(state.position.step, self.total, config)
            state.bundle.train()

            with self.finite.named(number, batch):
                result = self.step.gradients(batch)
            result.metrics = {**result.metrics, **self.guards.step(self.step.latest, at_log)}
            norm = self._update(batch, result.loss, factor)

            self._advance(batch)
            inputs = sum(len(pool.inputs) for pool in batch.pools)
            log.add(result, inputs, batch.tokens, batch.tokens)
            figures = None
            if at_log:
                extra = {"lr": factor * config.lr, "gradient_norm": float(norm), **self.guards.figures()}
                figures = log.write(number, extra | state.scale.figures())
                losses.append(figures["loss"])
                self.finite.check()
            self.progress.step(number, figures)
            if figures is not None:
                self.guards.check(number, figures)
            self._evaluate_and_save(log)
            self._stop_if_asked()
        self.guards.finish()
        return losses

    def finish(self, losses: list[float]) -> TrainResult:
        """Load the best weights when asked to, save the model, and write ``result.json``."""
        state, evaluation = self.state, self.recipe.evaluation
        if evaluation is not None and evaluation.load_best and state.best.step not in (None, state.position.step):
            self.progress.say(f"best weights: step {state.best.step}, {state.best.metric} {state.best.value:.2f}")
            load_weights(state.bundle, self.store.at(state.best.step or 0))
            self._load_mean(state.best.step or 0)
        chosen = state.best.step if evaluation is not None and evaluation.load_best else state.position.step
        rows = [row for row in state.history if row["step"] == chosen]
        target = self.folder / "model"
        self.ledger.finish(self.rows)
        with self._mean_weights():
            keep_scale(state.bundle.objective, state.bundle.model)
            self.engine.save_model(state.bundle.model, target, self.recipe)
        if self.world.is_main:
            card_of_run(self.folder, chosen)
        loss = losses[-1] if losses else math.nan
        result = TrainResult(
            target, state.position.step, loss, losses, rows[-1]["scores"] if rows else {}, asdict(state.best)
        )
        file = self.folder / "result.json"
        if self.world.is_main and (losses or not file.exists()):  # a finished run that is resumed keeps its figures
            known = asdict(result) | {"output": str(target), "loss": loss if losses else None}
            write_durably(file, (json.dumps(known, indent=1) + "\n").encode())
        self.world.barrier()
        self.progress.stop()
        return result

    def close(self) -> None:
        """Release the folder and the trackers."""
        self.progress.stop()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self._lock is not None:
            self._lock.release()
        self.engine.close()

    # -- parts of the set-up ------------------------------------------------------------------------------------

    def _build(self) -> RunState:
        from embedkit.factory import build

        recipe, train_config = self.recipe, self.recipe.train
        torch.manual_seed(recipe.seed)
        model = build(recipe.model, recipe.seed)
        torch.manual_seed(recipe.seed + 1)
        self.method.adapt(model)
        parts = self.method.parts(model)
        self._scored(model)  # what it cannot give is refused now, not at the first evaluation
        if train_config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        if train_config.compile:
            model.compile_layers()
        objective = setup.build_objective(recipe, self.method, self.method.embedding_dim(model), self.rows.num_rows)
        setup.check_batch(recipe, objective, self.rows)
        start_scale(objective, model, recipe.objective.settings if recipe.objective is not None else ())
        guide = Guide(recipe.guide, model) if recipe.guide is not None else None
        bundle = Bundle(model, parts, objective, guide)
        undecayed = frozenset(f"objective.{name}" for name in objective.no_weight_decay)
        groups = assign_groups(bundle, train_config, undecayed)
        bundle = self.engine.place(bundle)
        if guide is not None:
            guide.place(self.world.device)
        optimiser = Optimiser(bundle, groups, train_config)
        self.starting = StartingPoint(bundle, train_config.pull_to_start, train_config.interpolate)
        ema = RunningMean(bundle, train_config.ema) if train_config.ema is not None else None
        best = Best(metric=self.metric)
        return RunState(bundle, optimiser, LossScale(self.precision), ema, best=best)

    def _image_cache(self) -> ImageCache | None:
        """Vectors of all images, for methods that lock the image tower; a stream has none."""
        if not self.method.caches_images or self.rows.num_rows is None:
            return None
        from embedkit.training.loop import image_cache

        model = self.state.bundle.model
        decoding = setup.decoding(self.recipe, self.method, model)
        rows: Any = self.rows
        return image_cache.build(model, rows, self.folder, self.world, decoding, self.progress.say)

    def _chunking(self) -> Chunking:
        config = self.recipe.train
        chunking = Chunking(config.chunk_size, config.chunk_tokens, config.keep_chunks)
        if not chunking.whole and self.state.bundle.model.mixes_inputs:
            raise RecipeError(
                "batch normalisation sees one chunk at a time, which changes the gradient", where="train.chunk_size",
                remedy="set model.towers.image.freeze_batch_norm: true, or leave chunks out",
            )  # fmt: skip
        return chunking

    def _seed_process(self) -> None:
        """Dropout differs between processes and is a function of the seed."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.world.rank)

    def _resume(self) -> None:
        checkpoint, ignored = self.store.newest()
        for line in ignored:
            self.progress.say(line)
        found = self.world.counts(-1 if checkpoint is None else checkpoint.step)
        if len(set(found)) > 1:
            raise CheckpointError(
                f"processes see different checkpoints (steps {found})", where=str(self.store.folder),
                remedy="put train.output on a disk that all machines share",
            )  # fmt: skip
        if checkpoint is None:
            self.progress.say(f"{self.folder}: no complete checkpoint, starting from step 0")
            return
        self.state.restore(checkpoint, self.recipe, self.rows.fingerprint, self.world)
        at = self.state.position
        self.progress.say(f"resuming from step {at.step} (epoch {at.epoch}, batch {at.epoch_step}): {checkpoint.path}")

    def _stream(self) -> Any:
        from embedkit.data import prefetch
        from embedkit.data.images.decoding import decode_batches

        model, seed, guide = self.state.bundle.model, self.recipe.seed, self.state.bundle.guide
        other = guide.encoder if guide is not None and guide.own_inputs else None
        source = setup.batches_from(self.rows, self.state.position, self.world.rank, self.world.size)
        decoding = setup.decoding(self.recipe, self.method, model)
        if self.images is not None:
            source = self.images.attach(source, decoding.skip, self.rows.where)
        else:
            source = decode_batches(source, decoding, self.rows.where)
        numbered = enumerate(source, self.state.position.step)
        self._threads = ThreadPoolExecutor(decoding.threads, "embedkit-pixels")
        settings: dict[str, Any] = {"seed": seed, "guide": other, "threads": self._threads}
        made = (prepare(b, self.method, model, epoch=e, number=n, **settings) for n, (e, b) in numbered)
        return prefetch(made, 2)

    # -- parts of the loop --------------------------------------------------------------------------------------

    def _update(self, batch: StepBatch, loss: torch.Tensor, factor: float) -> torch.Tensor:
        """Clip and apply the gradients; nothing moves when they are not finite."""
        state, optimiser = self.state, self.state.optimiser
        if state.scale.active:
            optimiser.scale_gradients(1.0 / state.scale.factor)
        self.starting.add_pull(state.bundle)
        norm = optimiser.gradient_norm()
        bad = ~torch.isfinite(norm)
        if not self._refuses_later and bool(bad) and not state.scale.can_shrink:
            raise self.finite.refuse(state.position.step + 1, batch, loss)
        if state.scale.active and bool(bad):
            state.scale.update(True)
            optimiser.adamw.zero_grad(set_to_none=True)
            return norm
        optimiser.clip(norm)
        optimiser.step(factor, bad.float() if self._refuses_later else None)
        if self._refuses_later:
            self.finite.skipped(state.position.step + 1, batch, bad)
        state.scale.update(False)
        self.step.after_update()
        if state.ema is not None:
            state.ema.update(state.bundle)
        return norm

    @property
    def _refuses_later(self) -> bool:
        """Whether bad steps are skipped on the device and told at the next log line, so that nothing waits for it."""
        on_device = self.world.device.type == "cuda" and self.state.optimiser.can_skip
        return on_device and not self.state.scale.active

    def _advance(self, batch: StepBatch) -> None:
        position = self.state.position
        position.step += 1
        self.state.samples.add(batch)
        self.ledger.add(position.step, batch)
        position.epoch, position.epoch_step = batch.epoch, batch.step + 1
        if self.rows.steps_per_epoch is not None and position.epoch_step >= self.rows.steps_per_epoch:
            position.epoch, position.epoch_step = batch.epoch + 1, 0

    def _over(self) -> bool:
        """Whether all steps are done, or as many evaluations as the patience is were made without a new best."""
        patience = self.recipe.evaluation.patience if self.recipe.evaluation is not None else None
        return self.state.position.step >= self.total or (patience is not None and self.state.idle >= patience)

    def _due(self, every: int | None, by_epoch: bool = False) -> bool:
        position = self.state.position
        if self._over():
            return True
        every = setup.steps_between(every, self.rows, self.total)
        if every is None:
            return position.epoch_step == 0
        return (position.epoch_step if by_epoch else position.step) % every == 0

    def _evaluate_and_save(self, log: RunLog) -> None:
        evaluation = self.recipe.evaluation
        evaluated = evaluation is not None and self._due(evaluation.every, evaluation.by_epoch)
        if evaluated:
            self._evaluate(log)
        every = self.recipe.train.save_every
        new_best = evaluated and self.state.best.step == self.state.position.step
        if new_best or (evaluated and every is None) or self._due(every):
            self._save()

    def _save(self) -> None:
        """Write a checkpoint of this step, once: a whole one is never replaced, not even by its equal."""
        if self._saved != self.state.position.step:
            self.finite.check()
            self.finite.check_weights(self.state.position.step, self.state.bundle)
            self.state.save(self.store, self.recipe, self.rows.fingerprint, self.world)
            self.ledger.write(self.state.position.step, self.state.samples.gathered(self.world), self.rows)
            self._saved = self.state.position.step

    def _evaluate(self, log: RunLog) -> None:
        """Score the model on the main process; the random state of training is left as it was."""
        before = RandomState(self.world.device)
        state, suite = self.state, self.suite
        with self._mean_weights(), self.engine.whole_model(state.bundle.model) as model:
            if self.world.is_main:
                model.eval()
                with self.finite.evaluating(state.position.step):
                    report = suite.run(self._scored(model))
                scores = {f"{report.suite}/{task}": float(score) for task, score in report.scores.items()}
                value = scores[self.metric] if self.metric is not None else math.nan
                state.history.append({"step": state.position.step, "scores": scores})
                if state.best.better(value):
                    state.best = Best(self.metric, value, state.position.step)
                log.record({"step": state.position.step, "scores": scores})
                keep_report(self.folder, state.position.step, report)
                best = "none" if state.best.value is None else f"{state.best.value:.2f}"
                self.progress.say(f"step {state.position.step}: {self.metric} {value:.2f} (best {best})")
        self.engine.share(state)
        state.idle = 0 if state.best.step == state.position.step else state.idle + 1
        if self._over() and state.position.step < self.total:
            self.progress.say(f"step {state.position.step}: the run ends, {state.idle} evaluations without a new best")
        before.restore()

    def _scored(self, model: Any) -> Any:
        """The model whose vectors choose a checkpoint."""
        vectors = self.recipe.evaluation.vectors if self.recipe.evaluation is not None else None
        return model if vectors is None else model.by_other_vectors(**vectors.model_dump())

    @contextlib.contextmanager
    def _mean_weights(self) -> Iterator[None]:
        """The weights that are evaluated and saved: the running mean's, mixed with those of the start."""
        bundle, ema = self.state.bundle, self.state.ema
        with contextlib.ExitStack() as stack:
            if ema is not None and self.recipe.train.evaluate_ema:
                stack.enter_context(contextlib.contextmanager(ema.swapped)(bundle))
            stack.enter_context(contextlib.contextmanager(self.starting.mixed)(bundle))
            yield

    def _load_mean(self, step: int) -> None:
        if self.state.ema is not None:
            checkpoint = self.store.at(step)
            with checkpoint.reading("ema.safetensors"):
                self.state.ema.load_state_tensors(checkpoint.tensors("ema"))

    def _stop_if_asked(self) -> None:
        """End the run after a step in which any process was asked to, with a checkpoint."""
        if self.step.stop or (self.world.size == 1 and self._stop.code is not None):
            self._save()
            raise Interrupted(self.state.position.step, self.folder, self._stop.code or 143)
