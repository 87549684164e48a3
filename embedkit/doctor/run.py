"""Runs: what the log and the checkpoints of a run folder show, during the run or after its end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.doctor.finding import Examined, Finding
from embedkit.errors import UserError
from embedkit.formats.detect import stage_folders
from embedkit.system.log_file import Row, read_log

if TYPE_CHECKING:
    from embedkit.config.recipe import Recipe
    from embedkit.objectives.base import Objective

_EARLY = 50


def examine_run(folder: Path) -> Examined:
    """Facts and findings of a run: loss, collapse, scale at a bound, fp16, waiting, bad numbers, dead towers, data.

    Examples
    --------
    >>> from embedkit.config.recipe_io import dump_recipe, load_recipe
    >>> _ = Path("recipe.yaml").write_text(dump_recipe(load_recipe("quickstart")))
    >>> _ = Path("log.jsonl").write_text('{"step": 1, "loss": 2.5, "data_wait_share": 0.4}\\n')
    >>> facts, findings = examine_run(Path("."))
    >>> facts["last loss"], findings[0].what, findings[0].evidence
    (2.5, 'training waits for data', '40% of the time')
    """
    from embedkit.config.recipe_io import load_recipe

    entries = read_log(folder / "log.jsonl")
    rows = [row for row in entries if "loss" in row]
    if not rows:
        raise UserError("no step has been logged yet", where=str(folder / "log.jsonl"), remedy="wait, or train on")
    recipe = load_recipe(folder / "recipe.yaml")
    last = rows[-1]
    mean = {key: sum(row.get(key, 0.0) for row in rows) / len(rows) for key in ("data_wait_share", "padding_share")}
    facts = {"steps": last["step"], "first loss": rows[0]["loss"], "last loss": last["loss"], **mean}
    findings = [*_log(rows, recipe), *_waiting(mean["data_wait_share"]), *_not_finite(rows, folder), *_fp16(rows)]
    findings += _backwards(entries)
    findings += _checkpoints(folder)
    facts["data"], data_findings = _data(folder, recipe)
    return facts, [*findings, *data_findings]


def examine_stages(folder: Path) -> Examined:
    """Facts and findings of every stage of a run that has begun, each under the stage's name.

    Examples
    --------
    >>> from embedkit.config.recipe_io import dump_recipe, load_recipe
    >>> for name in ("1-warm", "2-all"):
    ...     Path(name).mkdir()
    >>> _ = Path("1-warm/recipe.yaml").write_text(dump_recipe(load_recipe("quickstart")))
    >>> _ = Path("1-warm/log.jsonl").write_text('{"step": 1, "loss": 2.5, "data_wait_share": 0.4}\\n')
    >>> facts, findings = examine_stages(Path("."))
    >>> facts["1-warm: last loss"], facts["2-all"], findings[0].what
    (2.5, 'not begun', '1-warm: training waits for data')
    """
    facts: dict[str, Any] = {}
    findings = []
    for stage in stage_folders(folder):
        if not (stage / "log.jsonl").is_file():
            is_fused = (stage / "model").is_dir()
            facts[stage.name] = "the models of all stages side by side" if is_fused else "not begun"
            continue
        own, faults = examine_run(stage)
        facts |= {f"{stage.name}: {key}": value for key, value in own.items()}
        findings += [replace(fault, what=f"{stage.name}: {fault.what}") for fault in faults]
    return facts, findings


def _log(rows: Sequence[Row], recipe: Recipe) -> Iterator[Finding]:
    """What the last log lines say of the loss and of the vectors; nothing before the run is under way."""
    from embedkit.training.monitor import guards

    batch, last = recipe.train.batch_size, rows[-1]
    tail = rows[-guards.LINES :]
    if last["step"] < _EARLY or len(tail) < guards.LINES:
        return
    lately = f"at the last {guards.LINES} log lines"
    objective = _objective(recipe)
    chance = guards.chance_loss(objective, last)
    if chance is not None and abs(last["loss"] - chance) < guards.AT_CHANCE * chance:
        yield Finding(
            "the loss stays at ln(batch): the model tells no pair from another",
            f"{last['loss']:.4f} after {last['step']:,} steps, ln({1 + last['negatives']:.0f}) = {chance:.4f}",
            guards.CHANCE_REMEDY,
        )
    if all(row.get("mean_cosine", 0.0) > guards.COLLAPSED for row in tail):
        yield Finding(
            "the vectors have collapsed",
            f"mean cosine {last['mean_cosine']:.4f} between different inputs {lately}",
            guards.COLLAPSE_REMEDY,
        )
    if all(row.get("gradient_norm") == 0.0 for row in tail):
        evidence = f"{lately}, up to step {last['step']:,}"
        yield Finding("the gradient is exactly zero", evidence, guards.IDLE_REMEDY)
    yield from _scale(rows, objective)
    if all("negatives" in row for row in tail):
        negatives = sum(row["negatives"] for row in tail) / len(tail)
        if negatives < 0.8 * (batch - 1):
            yield Finding(
                "batches hold fewer different positives than rows",
                f"{negatives:.1f} negatives an anchor {lately}, {batch} rows a batch",
                "set data.sampler=no-duplicates, or drop repeated rows",
            )


def _objective(recipe: Recipe) -> Objective:
    """The objective of the run; one without candidates where it cannot be built here, which `_data` reports."""
    from embedkit.objectives.base import NoObjective
    from embedkit.training import setup

    try:
        return setup.build_objective(recipe, setup.build_method(recipe))
    except UserError:
        return NoObjective()


def _scale(rows: Sequence[Row], objective: Objective) -> Iterator[Finding]:
    """A scale that came to a bound and stays there; one that began there is no finding."""
    from embedkit.training.monitor import guards

    for bound, word in dict.fromkeys((bound, word) for _, _, bound, word in guards.scale_bounds(objective)):

        def there(row: Row, bound: float = bound) -> bool:
            return abs(row.get("scale", math.nan) - bound) <= guards.AT_BOUND * bound

        lines = [row["step"] for row in rows if there(row)]
        if all(there(row) for row in rows[-guards.LINES :]) and not there(rows[0]):
            yield Finding(
                f"the temperature is at its bound: the scale stays at the {word} one",
                f"{bound:g} at {len(lines)} of {len(rows)} log lines, first at step {lines[0]:,}",
                guards.SCALE_REMEDY,
            )


def _waiting(share: float) -> Iterator[Finding]:
    if share > 0.1:
        evidence = f"{share:.0%} of the time"
        yield Finding("training waits for data", evidence, "put the data on a faster disk, or do not stream it")


def _not_finite(rows: Sequence[Row], folder: Path) -> Iterator[Finding]:
    """Bad numbers; for fp16 an overflowing gradient is how the loss scale is found, and no finding."""
    steps = [row["step"] for row in rows if not math.isfinite(row["loss"])
             or ("loss_scale" not in row and not math.isfinite(row.get("gradient_norm", 0.0)))]  # fmt: skip
    files = sorted(folder.glob("nonfinite-step-*.json"))
    later = rows[-1]["step"]
    unsettled = [file for file in files if not file.stem.rsplit("-", 1)[-1].isdigit()
                 or int(file.stem.rsplit("-", 1)[-1]) >= later]  # fmt: skip
    if steps or unsettled:
        at = f"at step {steps[0]:,}" if steps else "in a step that was refused"
        rows_in = f", rows in {unsettled[-1].name}" if unsettled else ""
        yield Finding(
            "loss or gradient was not finite",
            f"{at}{rows_in}",
            "lower train.lr, look at the rows, or use bf16",
        )


def _fp16(rows: Sequence[Row]) -> Iterator[Finding]:
    last = rows[-1]
    factor, skips = last.get("loss_scale"), last.get("skipped_steps", 0.0)
    if factor is None:
        return
    if factor <= 1.0 or skips > max(20.0, 0.05 * last["step"]):
        yield Finding(
            "gradients overflow in fp16", f"loss scale {factor:g}, {skips:.0f} of {last['step']:,} steps skipped",
            "set train.precision=bf16, or lower train.lr",
        )  # fmt: skip


def _backwards(entries: Sequence[Row]) -> Iterator[Finding]:
    """Scores of a correlation that are clearly below zero."""
    scored = [row["scores"] for row in entries if "scores" in row]
    for name, value in (scored[-1] if scored else {}).items():
        if value is not None and value < -10:
            yield Finding(
                f"{name} is negative: similarities fall where they should rise", f"{value:.2f}",
                "the labels of the training or of the evaluation data are swapped: turn one of them round",
            )  # fmt: skip


def _checkpoints(folder: Path) -> Iterator[Finding]:
    """Towers that get no gradient or do not move, as the checkpoints that are kept tell."""
    import torch

    from embedkit.training.state.checkpoint import Checkpoint, CheckpointStore, verify

    store = CheckpointStore(folder / "checkpoints")
    checkpoints = [Checkpoint(path, step) for step in store.steps()
            if verify(path := store.folder / f"step-{step:08d}") is None]  # fmt: skip
    if not checkpoints:
        return
    squares = {name.rpartition("/")[0]: value for name, value in checkpoints[-1].tensors("optimiser").items()
               if name.endswith("/exp_avg_sq")}  # fmt: skip
    older, newer = checkpoints[0].tensors("weights"), checkpoints[-1].tensors("weights")
    for part, title in (("model.text.", "text tower"), ("model.image.", "image tower"), ("model.", "model")):
        own = [name for name in squares if name.startswith(part)]
        if not own:
            continue
        idle = [name for name in own if not bool(squares[name].any())]
        still = len(checkpoints) > 1 and all(torch.equal(older[name], newer[name]) for name in own if name in older)
        if len(idle) == len(own):
            evidence = f"{len(own)} tensors whose squared gradients are all zero at step {checkpoints[-1].step:,}"
            yield Finding(f"no gradient has reached the {title}", evidence, "check the objective, the method, and lr")
        elif still:
            evidence = f"{len(own)} tensors are equal at steps {checkpoints[0].step:,} and {checkpoints[-1].step:,}"
            yield Finding(f"the weights of the {title} do not move", evidence, "check train.lr and train.groups")
        elif idle and part == "model.":
            evidence = f"{len(idle)} of {len(own)} tensors, first {idle[0]}"
            yield Finding("trainable parameters never had a gradient", evidence, "freeze them (train.groups)")


def _data(folder: Path, recipe: Recipe) -> tuple[str, list[Finding]]:
    """Whether the data is what the newest checkpoint was trained on, where it can be read here."""
    from embedkit.training import setup
    from embedkit.training.state.checkpoint import CheckpointStore

    newest, _ = CheckpointStore(folder / "checkpoints").newest()
    if newest is None:
        return "no checkpoint to compare with", []
    then = newest.json("state").get("data")
    try:
        now = setup.open_rows(recipe, setup.check(recipe)).fingerprint
    except UserError as error:
        return f"cannot be read here: {error.line()}", []
    if now == then:
        return "as it was", []
    evidence = f"{then} at step {newest.step:,}, {now} now"
    remedy = "give every machine the same files; --resume refuses them"
    return "changed", [Finding("the data is another than the run was trained on", evidence, remedy)]
