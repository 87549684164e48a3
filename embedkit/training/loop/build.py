"""What a run is made of, put together once: inputs that are checked first, then the model and all that trains it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedkit.config.recipe import Recipe
from embedkit.config.recipe_io import dump_recipe
from embedkit.data import TrainingRows
from embedkit.data.images.decoding import decode_batches
from embedkit.errors import CheckpointError, RecipeError
from embedkit.methods.base import Method
from embedkit.models.execution.products import QuickProducts
from embedkit.models.execution.recompute import Recompute
from embedkit.system.disk import FolderLock, write_durably
from embedkit.system.memory import available_bytes
from embedkit.system.workers import OF_THREAD, Workers
from embedkit.training import batching, setup
from embedkit.training.evaluation.holdout import HeldOut
from embedkit.training.evaluation.suite import Evaluator, Weights, by_chosen_vectors
from embedkit.training.footprint import chunking_of, measure, recomputes
from embedkit.training.layers import give_layers
from embedkit.training.loop.batches import prepare
from embedkit.training.loop.cache import Chunking
from embedkit.training.loop.guide import Guide
from embedkit.training.loop.schedule import Schedule
from embedkit.training.loop.step import Bundle, TrainStep
from embedkit.training.loop.update import Update
from embedkit.training.model_inputs import learn_inputs
from embedkit.training.monitor.callbacks import Callbacks
from embedkit.training.monitor.guards import Guards
from embedkit.training.monitor.log import Progress, RunLog
from embedkit.training.monitor.nonfinite import FiniteGuard
from embedkit.training.monitor.summary import summary_line
from embedkit.training.optim.l2sp import StartingPoint
from embedkit.training.optim.optimizer import Optimiser, RunningMean, assign_groups
from embedkit.training.optim.precision import LossScale, Precision, autocast, bf16_hint, choose_precision
from embedkit.training.optim.scale import start_scale
from embedkit.training.parallel.agreement import check_same
from embedkit.training.parallel.distributed import World
from embedkit.training.parallel.engine import Engine
from embedkit.training.parallel.signals import StopRequest
from embedkit.training.starting import start
from embedkit.training.state.checkpoint import CheckpointStore
from embedkit.training.state.output_folder import check_folder, refuse_model
from embedkit.training.state.sample_accounting import Ledger
from embedkit.training.state.saving import Saver
from embedkit.training.state.state import Best, RunState

if TYPE_CHECKING:
    from embedkit.training.loop.image_cache import ImageCache

_FEW_IMAGES = 4096  # views that are made before processes start, which takes about as long as to make as many


@dataclass(frozen=True)
class Inputs:
    """What a run reads, checked and open, before any weight is made.

    Attributes
    ----------
    suite : OpenSuite or None
        What is evaluated while training.
    metric : str or None
        The score that chooses the best checkpoint.
    total : int
        Optimiser steps of the run.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> type(inputs.method).__name__, inputs.total, inputs.metric
    ('Pairs', 4, None)
    """

    recipe: Recipe
    method: Method
    rows: TrainingRows
    suite: Any
    metric: str | None
    total: int


@dataclass(frozen=True)
class Run:
    """All parts of a run. Parts change as it proceeds (`state` above all); which parts they are does not.

    Attributes
    ----------
    state : RunState
        Weights, optimiser, position, scores: what a checkpoint holds.
    step : TrainStep
        Gradients of a batch.
    update : Update
        Applies them.
    stream : iterator of StepBatch
        The batches from the position on, prepared in the background, without end.
    schedule : Schedule
        When to log, evaluate, save and end.
    holdout : HeldOut or None
        Rows that are not trained on, and their score before training; None where there are none.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> with opened(inputs, Path("runs/quickstart"), Progress()) as run:
    ...     run.saver.save()
    >>> run.total, run.state.position, run.store.steps()
    (4, Position(step=0, epoch=0, epoch_step=0), [0])
    """

    inputs: Inputs
    folder: Path
    engine: Engine
    state: RunState
    store: CheckpointStore
    step: TrainStep
    update: Update
    stream: Any
    schedule: Schedule
    weights: Weights
    evaluator: Evaluator
    holdout: HeldOut | None
    saver: Saver
    ledger: Ledger
    finite: FiniteGuard
    guards: Guards
    log: RunLog
    progress: Progress
    callbacks: Callbacks
    stop: StopRequest

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self.inputs.recipe

    @property
    def rows(self) -> TrainingRows:
        """The rows that are trained on."""
        return self.inputs.rows

    @property
    def total(self) -> int:
        """Optimiser steps of the whole run."""
        return self.inputs.total


def open_inputs(checked: setup.Checked) -> Inputs:
    """Data and suite of a checked recipe, opened; errors in them are reported before a model is made.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> inputs.total, inputs.rows.num_rows
    (4, 256)
    """
    from embedkit.evaluation import open_suite

    recipe, config = checked.recipe, checked.recipe.evaluation
    suite = None
    if config is not None:
        suite = open_suite(config.suite, config.data, config.tasks, config.split, settings=config.settings)
    rows = setup.open_rows(recipe, checked.method, checked.contract, checked.sources)
    recipe = setup.as_opened(recipe, rows)
    return Inputs(recipe, checked.method, rows, suite, checked.metric, batching.total_steps(recipe, rows))


@contextlib.contextmanager
def opened(
    inputs: Inputs, folder: Path, progress: Progress, callbacks: Sequence[Any] = (), *, resume: bool = False
) -> Iterator[Run]:
    """A context with the run, ready for its next step; on the way out its threads, locks and trackers are released.

    Parameters
    ----------
    resume : bool
        Go back to the latest complete checkpoint in `folder`.

    Raises
    ------
    CheckpointError
        The folder has a run already, or its checkpoint belongs to another one.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> with opened(inputs, Path("run"), Progress()) as run:
    ...     batch = next(run.stream)
    ...     result = run.step.gradients(batch)
    >>> batch.size, list(batch.views)
    (16, ['anchor', 'positive'])
    """
    recipe = inputs.recipe
    if recipe.train.threads is not None:
        torch.set_num_threads(recipe.train.threads)
    with contextlib.ExitStack() as stack:
        engine = Engine(recipe, folder)
        stack.callback(engine.close)
        display = progress if engine.world.is_main else Progress()
        stack.callback(display.stop)
        listeners = Callbacks(callbacks, is_main=engine.world.is_main)
        batching.check_shares(inputs.rows.smallest_batch, engine.world.size)
        precision = choose_precision(recipe.train.precision, engine.world.device)
        if engine.world.is_main:
            lock = FolderLock(folder, "wait for it, or give another train.output")
            stack.callback(lock.release)
            check_folder(folder, resume)  # again: another run may have filled it before this one had the lock
        check_same(engine.world, recipe, inputs.rows)
        for note in (*recipe.origin.notes, *inputs.rows.notes):
            display.say(note)
        state, starting = build_state(inputs, engine, precision, display.say)
        model = state.bundle.model
        of_rows = batching.notes_of_first_rows(inputs.method, model, inputs.rows)
        for note in (*inputs.method.notes(model), *of_rows, *bf16_hint(precision, engine.world.device, model)):
            display.say(note)
        display.say(summary_line(inputs.rows, inputs.total, inputs.method, model))
        yield _assembled(inputs, folder, engine, state, starting, precision, display, listeners, stack, resume=resume)


def build_state(
    inputs: Inputs, engine: Engine, precision: Precision, say: Callable[[str], None] = lambda line: None
) -> tuple[RunState, StartingPoint]:
    """Model, method's parts, objective, guide, optimiser and means, on their device; random by the recipe's seed.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> state, _ = build_state(inputs, Engine(inputs.recipe, Path("run")), "fp32")
    >>> [(group.name, group.lr, group.weight_decay) for group in state.optimiser.groups]
    [('model', 0.003, 0.01), ('model', 0.003, 0.0)]
    """
    from embedkit.factory import build

    recipe, method, config = inputs.recipe, inputs.method, inputs.recipe.train
    torch.manual_seed(recipe.seed)
    model = build(recipe.model, recipe.seed)
    learn_inputs(model, inputs.rows, say)
    torch.manual_seed(recipe.seed + 1)
    method.adapt(model)
    parts = method.parts(model)
    start(method, model, parts, inputs.rows, engine.world, say, batching.decoding(recipe, method, model))
    by_chosen_vectors(recipe, model)  # what it cannot give is refused now, not at the first evaluation
    for note in setup.notes_of_model(recipe, method, inputs.rows, model, parts):
        say(note)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if config.compile:
        model.compile_layers()
    objective = setup.build_objective(recipe, method, method.embedding_dim(model), inputs.rows.num_rows)
    setup.check_batch(recipe, objective, inputs.rows)
    start_scale(objective, model, recipe.objective.settings if recipe.objective is not None else ())
    guide = Guide(recipe.guide, model, method.followed_parts(parts)) if recipe.guide is not None else None
    if guide is not None:
        method.fit_guide(parts, guide.training_dim)
    give_layers(objective, model)
    setup.begin(
        recipe, method, objective, inputs.rows, method.embedding_dim(model),
        None if guide is None else guide.training_dim,
    )  # fmt: skip
    bundle = Bundle(model, parts, objective, guide)
    undecayed = frozenset(f"objective.{name}" for name in objective.no_weight_decay)
    groups = assign_groups(bundle, config, undecayed, shipped=not recipe.origin.has("train.groups"))
    bundle = engine.place(bundle)
    if guide is not None:
        guide.place(engine.world.device)
    optimiser = Optimiser(bundle, groups, config, recipe.seed)
    starting = StartingPoint(bundle, config.l2sp, config.wise_ft)
    ema = RunningMean(bundle, config.ema) if config.ema is not None else None
    return RunState(bundle, optimiser, LossScale(precision), ema, best=Best(metric=inputs.metric)), starting


def _assembled(
    inputs: Inputs, folder: Path, engine: Engine, state: RunState, starting: StartingPoint, precision: Precision,
    progress: Progress, callbacks: Callbacks, stack: contextlib.ExitStack, *, resume: bool,
) -> Run:  # fmt: skip
    """The parts around a state, which is brought back to a checkpoint on the way when that is asked for."""
    recipe, method, rows, world = inputs.recipe, inputs.method, inputs.rows, engine.world
    store = CheckpointStore(folder / "checkpoints", recipe.train.keep_checkpoints)
    images = image_cache_of(inputs, folder, state.bundle.model, world, progress.say)
    ledger, stop = Ledger(folder, world, recipe.data.on_bad_row == "quarantine"), StopRequest()
    # weights of sharded layers are whole in their own passes only
    again = recomputes(recipe, world.device) and not engine.sharded
    recompute = Recompute(state.bundle.model) if again else None
    step = TrainStep(
        state.bundle, method, world, Chunking(),
        autocast=_arithmetic(recipe, engine, precision, state.bundle), loss_scale=lambda: state.scale.factor,
        defer_sync=engine.defer_sync, total_steps=inputs.total, equal_passes=engine.sharded,
        asked_to_stop=lambda: stop.code is not None, recompute=recompute,
    )  # fmt: skip
    schedule = Schedule(recipe.train, recipe.evaluation, inputs.total, rows.steps_per_epoch)
    guards = Guards(recipe.train, state.bundle.objective, world, inputs.total, setup.most_negatives(rows), progress.say)
    torch.manual_seed(recipe.seed * 1_000_003 + world.rank)  # dropout differs between processes
    if resume:
        _resume(inputs, folder, state, store, world, progress)
    step.chunking = _chunking(inputs, state, world, step, progress)
    if world.is_main:
        _open_folder(folder, store, state, recipe, progress)
    engine.start_trackers(recipe)
    stream = stack.enter_context(contextlib.closing(batches_of(inputs, state, images, world, stack)))
    log = RunLog(folder / "log.jsonl", world, progress, lambda: stream.waited, engine.trackers)
    log.rewind(state.position.step if state.position.step or state.history else -1)
    ledger.rewind(state.position.step)
    finite = FiniteGuard(folder, world, store, step, rows.where, log.record)
    weights = Weights(recipe, state, starting, engine, inputs.method)
    evaluator = Evaluator(
        recipe, inputs.suite, state, weights, engine, schedule,
        folder=folder, finite=finite, log=log, progress=progress, callbacks=callbacks,
    )  # fmt: skip
    return Run(
        inputs=inputs, folder=folder, engine=engine, state=state, store=store, step=step,
        update=Update(state, step, starting, finite), stream=stream, schedule=schedule, weights=weights,
        evaluator=evaluator, holdout=HeldOut.of(rows, recipe.train.holdout, method, folder, log, progress, callbacks),
        saver=Saver(recipe, rows, state, store, world, finite, ledger, callbacks), ledger=ledger, finite=finite,
        guards=guards, log=log, progress=progress, callbacks=callbacks, stop=stop,
    )  # fmt: skip


def _open_folder(folder: Path, store: CheckpointStore, state: RunState, recipe: Recipe, progress: Progress) -> None:
    """Leave what an interrupted save left behind out of the folder, and write the recipe into it."""
    store.sweep()
    if (full := store.space_note(state.nbytes)) is not None:
        progress.say(full)
    write_durably(folder / "recipe.yaml", dump_recipe(recipe).encode())


def _resume(
    inputs: Inputs, folder: Path, state: RunState, store: CheckpointStore, world: World, progress: Progress
) -> None:
    checkpoint, ignored = store.newest()
    for line in ignored:
        progress.say(line)
    steps = world.counts(-1 if checkpoint is None else checkpoint.step)
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"processes see different checkpoints (steps {steps})", where=str(store.folder),
            remedy="put train.output on a disk that all machines share",
        )  # fmt: skip
    if checkpoint is None:
        refuse_model(folder)
        progress.say(f"{folder}: no complete checkpoint, starting from step 0")
        return
    for line in state.restore(checkpoint, inputs.recipe, inputs.rows.fingerprint, world):
        progress.say(line)
    at = state.position
    if at.step >= inputs.total:
        progress.say(f"all {at.step:,} steps are done ({checkpoint.path}): nothing is left to train")
        return
    progress.say(f"resuming from step {at.step} (epoch {at.epoch}, batch {at.epoch_step}): {checkpoint.path}")


def _arithmetic(
    recipe: Recipe, engine: Engine, precision: Precision, bundle: Bundle
) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """A maker of the context of forward passes: mixed precision, or on a CPU the quickest float32 products.

    Layers that are compiled, sharded, or run again by checkpoints on the way back stay as they are.
    """
    config, device = recipe.train, engine.world.device
    if precision != "fp32" or device.type != "cpu" or engine.sharded or config.compile or config.gradient_checkpointing:
        return autocast(precision, device)
    return QuickProducts(bundle).context


def _chunking(inputs: Inputs, state: RunState, world: World, step: TrainStep, progress: Progress) -> Chunking:
    """How the gradient cache cuts a step; refused for a model whose vectors depend on what is in a chunk with them."""
    recipe, model = inputs.recipe, state.bundle.model
    config = recipe.train
    if (config.chunk_size is not None or config.chunk_tokens is not None) and model.mixes_inputs:
        raise RecipeError(
            "batch normalisation sees one chunk at a time, which changes the gradient", where="train.chunk_size",
            remedy="set model.towers.image.freeze_batch_norm: true, or leave chunks out",
        )  # fmt: skip
    if config.chunk_tokens == "auto" and state.chunk_tokens is None:
        state.chunk_tokens = _fitting_tokens(inputs, state, world, step)
        progress.say(
            f"train.chunk_tokens: auto takes {state.chunk_tokens:,} tokens a chunk, by the memory that is free"
        )
    tokens = state.chunk_tokens if config.chunk_tokens == "auto" else config.chunk_tokens
    return Chunking(config.chunk_size, tokens, config.keep_chunks)


def _fitting_tokens(inputs: Inputs, state: RunState, world: World, step: TrainStep) -> int:
    """Tokens of a chunk that fits into the memory of every process."""
    recipe, method, bundle, device = inputs.recipe, inputs.method, state.bundle, world.device
    source = ((0, batch) for batch in inputs.rows.batches(0, 0, world.rank, world.size))
    _, first = next(decode_batches(source, batching.decoding(recipe, method, bundle.model), inputs.rows.where))
    batch = prepare(first, method, bundle.model, seed=recipe.seed, epoch=0)
    bundle.train()
    sizes = [measure(bundle, method, pool, device, step.autocast, step.recompute) for pool in batch.pools]
    if device.type == "cuda":
        free: float | None = torch.cuda.mem_get_info(device)[0]
    else:
        free = available_bytes()
        free = None if free is None else free / world.size
    gradients = sum(p.numel() * p.element_size() for p in bundle.parameters() if p.requires_grad)
    tokens = chunking_of(recipe, sizes, batch, free, gradients, device.type).tokens
    return min(world.counts(tokens or 1))


def image_cache_of(
    inputs: Inputs, folder: Path, model: Any, world: World, say: Callable[[str], None]
) -> ImageCache | None:
    """Vectors of all images, for methods that lock the image tower; a stream has none.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> image_cache_of(inputs, Path("run"), None, World(), print) is None  # method pairs locks no image tower
    True
    """
    if not inputs.method.caches_images or inputs.rows.num_rows is None:
        return None
    from embedkit.training.loop import image_cache

    rows: Any = inputs.rows
    return image_cache.build(model, rows, folder, world, batching.decoding(inputs.recipe, inputs.method, model), say)


def batches_of(
    inputs: Inputs, state: RunState, images: ImageCache | None, world: World, stack: contextlib.ExitStack
) -> Any:
    """Batches from the position of `state` on, epoch after epoch without end, prepared two steps ahead.

    ``.waited`` is the time in seconds that was spent waiting for them. The threads end with `stack`.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> state, _ = build_state(inputs, Engine(inputs.recipe, Path("run")), "fp32")
    >>> with contextlib.ExitStack() as stack:
    ...     with contextlib.closing(batches_of(inputs, state, None, World(), stack)) as stream:
    ...         print([next(stream).step for _ in range(3)])
    [0, 1, 2]
    """
    from embedkit.data import prefetch

    recipe, method, rows, model = inputs.recipe, inputs.method, inputs.rows, state.bundle.model
    guide = state.bundle.guide
    source = batching.batches_from(rows, state.position, world.rank, world.size)
    decoding = batching.decoding(recipe, method, model)
    if images is not None:
        source = images.attach(source, decoding.skip, rows.where)
    else:
        source = decode_batches(source, decoding, rows.where)
    numbered = enumerate(source, state.position.step)
    workers = Workers(decoding.threads, after=_FEW_IMAGES)
    threads = ThreadPoolExecutor(decoding.threads, "embedkit-pixels", OF_THREAD.set, (workers,))
    stack.callback(workers.close)
    stack.callback(threads.shutdown, wait=False, cancel_futures=True)
    settings: dict[str, Any] = {
        "seed": recipe.seed, "threads": threads,
        "guides": [] if guide is None else guide.own_inputs,
    }  # fmt: skip
    return prefetch((prepare(b, method, model, epoch=e, number=n, **settings) for n, (e, b) in numbered), 2)
