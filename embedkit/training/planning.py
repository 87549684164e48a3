"""What a recipe would do, worked out before it does it: parameters, steps, negatives, memory, evaluations."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embedkit.config.recipe import Recipe
from embedkit.data.images.decoding import decode_batches
from embedkit.errors import RecipeError
from embedkit.models.encode.encoding import BATCH_TOKENS
from embedkit.models.execution.recompute import Recompute
from embedkit.system.log_file import read_log, speed_of
from embedkit.system.memory import available_bytes, resident_bytes
from embedkit.training import batching, setup
from embedkit.training.evaluation.holdout import why_unscored
from embedkit.training.footprint import activation_bytes, chunking_of, input_bytes, measure, recomputes
from embedkit.training.layers import give_layers
from embedkit.training.loop.batches import StepBatch, prepare
from embedkit.training.loop.cache import Chunking
from embedkit.training.loop.schedule import steps_between
from embedkit.training.loop.step import Bundle
from embedkit.training.monitor.summary import summary_line
from embedkit.training.optim.moments import moment_bytes
from embedkit.training.optim.optimizer import ParameterGroup, assign_groups
from embedkit.training.optim.precision import Precision, autocast, bf16_hint, choose_precision

_SAMPLE_STEPS = 4
_PREPARED = 4  # batches: two wait, one is made, one is trained on
_ENCODING = 6  # tensors of the largest size that a layer works with in `encode`


@dataclass
class Plan:
    """The figures of a run.

    Attributes
    ----------
    parameters : list of dict
        One entry a group: name, peak learning rate, weight decay, parameters trained.
    rows : dict
        What the data says of itself: rows by source, dropped rows by reason.
    steps : dict
        ``total``, ``per_epoch``, ``epochs``, and ``checkpoint_every`` in words.
    batch : dict
        Rows of a step: ``whole``, ``per_process``, ``processes``; inputs and tokens of a step (mean of the first
        batches), chunks of the gradient cache.
    negatives : dict
        Candidates that repel one anchor: ``in_batch``, ``hard``, ``other_processes``, ``bank``, ``total``.
    memory : dict
        Bytes in words: the process with its data, weights, gradients, optimiser, activations (from what a few inputs
        keep), and their sum ``peak``; ``encoding`` the peak of `encode`, ``per_token`` and ``encoding_per_text`` what
        grows with the work.
    evaluation : dict
        Suite, tasks, how often, the metric that chooses, and all metric names; ``holdout`` is the share of the rows
        that is held out and scored, ``unscored`` why none is though a share was asked for.
    output : str
        The folder of the run.
    summary : str
        The line that `train` prints at the start: rows, steps, cut, repeated and missing texts, rows left over.
    warnings : list of str
        What is likely not meant: of model folders, anchors without negatives, data, views.
    notes : list of str
        How settings, columns and prompts are read.
    seconds : float or None
        The time the steps take, where the run's folder holds a log of an earlier run to measure it by.

    Examples
    --------
    >>> Plan.__dataclass_fields__["negatives"].type
    'dict[str, int]'
    """

    recipe: str
    method: str
    objective: str
    device: str
    precision: str
    parameters: list[dict[str, Any]]
    rows: dict[str, Any]
    steps: dict[str, Any]
    batch: dict[str, Any]
    negatives: dict[str, int]
    memory: dict[str, str]
    evaluation: dict[str, Any] = field(default_factory=dict)
    output: str = ""
    summary: str = ""
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)


def plan(recipe: Recipe, processes: int = 1) -> Plan:
    """The plan of a run; the data is opened and the model built, nothing is computed with it.

    Parameters
    ----------
    recipe : Recipe
        The checked recipe.
    processes : int
        How many processes the run will have.

    Raises
    ------
    UserError
        As `train` would.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> figures = plan(load_recipe("quickstart", smoke=True))
    >>> figures.steps["total"], figures.batch["rows"], figures.negatives["total"]
    (4, 16, 15)
    """
    checked = setup.check_all(recipe)
    method = checked.method
    rows = setup.open_rows(recipe, method, checked.contract)
    recipe = setup.as_opened(recipe, rows)
    total = batching.total_steps(recipe, rows)
    from embedkit.factory import build

    with notes_of_folders() as folder_notes:
        model = build(recipe.model, recipe.seed)
    method.adapt(model)
    parts = method.parts(model)
    objective = setup.build_objective(recipe, method, method.embedding_dim(model), rows.num_rows)
    give_layers(objective, model)
    bundle = Bundle(model, parts, objective)
    groups = assign_groups(bundle, recipe.train, frozenset(f"objective.{n}" for n in objective.no_weight_decay))
    resident = resident_bytes()
    batches = _first_batches(recipe, rows, method, model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = batches[0].size
    batching.check_shares(size if rows.smallest_batch is None else rows.smallest_batch, processes)
    hard = round(float(np.mean([len(b.owner["negatives"]) / b.size if "negatives" in b.owner else 0 for b in batches])))
    config = setup.objective_config(recipe, method)
    precision = choose_precision(recipe.train.precision, device)
    steps, negatives = (
        _steps(recipe, rows, total),
        _negatives(objective.negatives(size * method.anchors_a_row, hard, processes)),
    )
    of_model = setup.notes_of_model(recipe, method, rows, model, parts)
    hints, of_rows = bf16_hint(precision, device, model), batching.notes_of_first_rows(method, model, rows)
    memory, chunking = _memory(bundle, recipe, method, batches, processes, _Start(resident, device, precision))
    batch = _batch(chunking, batches, processes)
    return Plan(
        recipe=recipe.name,
        method=recipe.method.name,
        objective=_objective(config),
        device=str(device),
        precision=precision,
        parameters=[_group(group) for group in groups],
        rows={**rows.summary(), "notes": [*rows.notes, *of_model]},
        steps=steps,
        batch=batch,
        negatives=negatives,
        memory=memory,
        evaluation=_evaluation(recipe, rows, total),
        output=str(_output(recipe)),
        summary=summary_line(rows, total, method, model),
        warnings=list(dict.fromkeys([*folder_notes, *_warnings(rows, negatives, objective), *of_model])),
        notes=list(dict.fromkeys([*recipe.origin.notes, *rows.guesses, *method.notes(model), *of_rows, *hints])),
        seconds=_seconds(recipe, batch, total),
    )


@contextlib.contextmanager
def notes_of_folders() -> Iterator[list[str]]:
    """A context with the list of what model folders that are read inside it say of themselves, in place of the log.

    Examples
    --------
    >>> with notes_of_folders() as notes:
    ...     logging.getLogger("embedkit.formats").warning("max_seq_length is 128, not 512")
    >>> notes
    ['max_seq_length is 128, not 512']
    """
    notes: list[str] = []
    logger = logging.getLogger("embedkit.formats")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: notes.append(record.getMessage())  # type: ignore[method-assign]
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _warnings(rows: Any, negatives: Mapping[str, int], objective: Any) -> Iterator[str]:
    """What is likely not meant, the most severe first, and is not in the summary."""
    if negatives["total"] == 0 and objective.negatives(2, 0, 1).total:
        yield "an anchor sees no negatives: nothing would be learned from a batch; raise train.batch_size"
    yield from (note for note in rows.notes if note not in rows.guesses)


def _output(recipe: Recipe) -> Path:
    return Path(recipe.train.output.replace("{name}", recipe.name))


def _seconds(recipe: Recipe, batch: Mapping[str, Any], total: int) -> float | None:
    """Seconds of all steps at the speed that the log in the folder of the run records; None without one."""
    path = _output(recipe) / "log.jsonl"
    speeds = [speed[1] for speed in map(speed_of, read_log(path)) if speed is not None] if path.is_file() else []
    return total * batch["inputs"] / speeds[-1] if speeds and speeds[-1] > 0 else None


def _objective(config: Mapping[str, Any]) -> str:
    """Name and settings of the objective in words.

    Examples
    --------
    >>> _objective({"name": "infonce", "temperature": 0.05, "margin": None})
    'infonce, temperature 0.05, margin none'
    >>> _objective({"name": "sum", "terms": [{"name": "supcon", "weight": 0.9}, {"name": "heads"}]})
    'sum, terms supcon (weight 0.9) + heads'
    """
    return (
        ", ".join(str(value) if key == "name" else f"{key} {_value(value)}" for key, value in config.items()) or "none"
    )


def _value(value: Any) -> str:
    """A setting in words; one that is an objective by its name, with its own settings in brackets."""
    if isinstance(value, Mapping):
        own = ", ".join(f"{key} {_value(item)}" for key, item in value.items() if key != "name")
        return f"{value['name']} ({own})" if "name" in value and own else str(value.get("name", own))
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return " + ".join(map(_value, value))
    return "none" if value is None else str(value)


def _first_batches(recipe: Recipe, rows: Any, method: Any, model: Any) -> list[StepBatch]:
    batches = []
    source = ((0, batch) for batch in rows.batches(0))
    for _, batch in decode_batches(source, batching.decoding(recipe, method, model), rows.where):
        batches.append(prepare(batch, method, model, seed=recipe.seed, epoch=0))
        if len(batches) == _SAMPLE_STEPS:
            break
    if not batches:
        raise RecipeError("the data gives no batch", where="data.train", remedy="lower train.batch_size")
    return batches


def _group(group: ParameterGroup) -> dict[str, Any]:
    return {
        "group": group.name, "learning_rate": group.lr, "weight_decay": group.weight_decay,
        "tensors": len(group.names), "parameters": group.count,
    }  # fmt: skip


def _steps(recipe: Recipe, rows: Any, total: int) -> dict[str, Any]:
    per_epoch, saves = rows.steps_per_epoch, _every(recipe.train.save_every, rows, total)
    if recipe.evaluation is not None:
        saves += f", and each {'new best' if recipe.train.save_every is not None else 'evaluation'}"
    epochs = None if per_epoch is None else round(total / per_epoch, 3)
    return {"total": total, "per_epoch": per_epoch, "epochs": epochs, "checkpoint_every": saves}


def _every(every: int | None, rows: Any, total: int) -> str:
    """How often something is done, in words."""
    steps = steps_between(every, rows.steps_per_epoch, total)
    return "epoch" if steps is None else f"{steps} step{'s' * (steps > 1)}"


def _batch(chunking: Chunking, batches: Sequence[StepBatch], processes: int) -> dict[str, Any]:
    """Rows and mean inputs and tokens of a step, and the most chunks of one in the sampled batches."""
    return {
        "rows": batches[0].size,
        "rows_per_process": -(-batches[0].size // processes),
        "processes": processes,
        "inputs": round(float(np.mean([sum(len(p.inputs) for p in b.pools) for b in batches]))),
        "tokens": round(float(np.mean([b.tokens for b in batches]))),
        "chunks": max(sum(len(chunking.cut(pool)) for pool in batch.pools) for batch in batches),
    }


def _negatives(count: Any) -> dict[str, int]:
    return {**asdict(count), "total": count.total}


@dataclass(frozen=True)
class _Start:
    """Bytes of this process with data and model in it, before anything is computed, and where it computes."""

    resident: int
    device: torch.device
    precision: Precision


def _memory(
    bundle: Bundle, recipe: Recipe, method: Any, batches: Sequence[StepBatch], processes: int, start: _Start
) -> tuple[dict[str, str], Chunking]:
    """The peak of one process in words: what is there now, what training adds, and what `encode` takes; and its chunks.

    On a CPU of the whole process; on a GPU of the tensors on the device.
    """
    config, device = recipe.train, start.device
    bundle.train()
    on_cpu = device.type == "cpu"
    recompute = Recompute(bundle.model) if recomputes(recipe, device) else None
    context = autocast(start.precision, torch.device("cpu"))
    sizes = [measure(bundle, method, pool, torch.device("cpu"), context, recompute) for pool in batches[0].pools]
    trainable = [p for p in bundle.parameters() if p.requires_grad]
    weights = sum(p.numel() * p.element_size() for p in bundle.parameters())
    gradients = sum(p.numel() * p.element_size() for p in trainable)
    free = available_bytes() if on_cpu else torch.cuda.mem_get_info()[0]
    moments = moment_bytes(trainable, config.moments)
    copies = gradients * ((config.ema is not None) + bool(config.l2sp or config.wise_ft is not None))
    chunking = chunking_of(recipe, sizes, batches[0], free, gradients + moments + copies, device.type)
    activations = max(activation_bytes(sizes, batch, chunking, device.type) for batch in batches) / processes
    waiting = _PREPARED * max(sum(input_bytes(pool.inputs) for pool in batch.pools) for batch in batches) / processes
    parts = {"process": start.resident - weights if on_cpu else 0, "weights": weights, "gradients": gradients,
             "optimiser": moments, "copies": copies, "activations": activations, "batches": waiting}  # fmt: skip
    words = {name: _size(value) for name, value in parts.items() if value or name in ("weights", "activations")}
    tokens = sum(float(pool.inputs.costs.sum()) for pool in batches[0].pools) / processes
    words["peak"] = _size(sum(parts.values()))
    words["per_token"] = f"{activations / max(1.0, tokens) / 1024:.0f} KiB of activations"
    if config.moments != "fp32":
        words["saved"] = f"moments in {config.moments} save {_size(moment_bytes(trainable, 'fp32') - moments)}"
    if config.chunk_tokens == "auto":
        words["chunk_tokens"] = f"{chunking.tokens:,}"
    budget = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cuda"])
    batch_bytes = max(_ENCODING * size.largest * budget for size in sizes)
    words["encoding"] = _size(parts["process"] + weights + batch_bytes)
    words["encoding_per_text"] = f"{4 * int(bundle.model.dim) / 1024:.1f} KiB of vectors"
    return words, chunking


def _size(value: float) -> str:
    return f"{value / 2**20:.0f} MiB"


def _evaluation(recipe: Recipe, rows: Any, total: int) -> dict[str, Any]:
    unscored = why_unscored(rows, recipe.train.holdout)
    held_out: dict[str, Any] = {"holdout": recipe.train.holdout} if recipe.train.holdout and unscored is None else {}
    held_out |= {"unscored": unscored} if unscored is not None else {}
    if recipe.evaluation is None:
        return held_out
    from embedkit.evaluation import metric_names

    config = recipe.evaluation
    every = _every(config.every, rows, total)
    every += " of an epoch, and its end" if config.by_epoch and config.every is not None else ""
    names = metric_names(config.suite, config.tasks, config.split, config.data)
    return {
        "suite": config.suite,
        "split": config.split,
        "every": every,
        "chooses": setup.metric_of(recipe),
        "metrics": names,
        **held_out,
    }
