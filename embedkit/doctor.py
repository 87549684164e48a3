"""Examinations of a model, a run, a recipe or a data file: findings, each with its evidence and a remedy.

A finding is a fact that was measured, not a guess; what is not measured is not mentioned.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from embedkit.models import Model
    from embedkit.recipe import Recipe

ROWS_READ = 100_000
"""Rows of a data file that are looked at."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or likely to be.

    Attributes
    ----------
    what : str
        The finding in a few words.
    evidence : str
        What was measured.
    remedy : str
        How to mend it.
    """

    what: str
    evidence: str
    remedy: str


@dataclass(frozen=True)
class Examination:
    """What was looked at, the figures that were measured, and the findings."""

    kind: str
    subject: str
    facts: dict[str, Any]
    findings: list[Finding]


def examine(subject: str, *, trust_remote_code: bool = False) -> Examination:
    """Look at a model folder or hub id, a run folder, a recipe (name or YAML file), or a data file or folder.

    Raises
    ------
    UserError
        The subject cannot be read at all; the message is that of the part that reads it.
    """
    from embedkit.resources import recipe_names

    path = Path(subject)
    if path.suffix in (".yaml", ".yml") or (subject in recipe_names() and not path.exists()):
        from embedkit.recipe_io import load_recipe

        return Examination("recipe", subject, *examine_recipe(load_recipe(subject)))
    if (path / "log.jsonl").is_file():
        return Examination("run", subject, *examine_run(path))
    if subject.startswith("builtin:") or path.is_file() or (path.is_dir() and not _is_model(path)):
        return Examination("data", subject, *examine_data(subject))
    from embedkit.models import load

    return Examination("model", subject, *examine_model(load(subject, trust_remote_code=trust_remote_code)))


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "modules.json", "embedkit.json"))


def examine_data(path: str) -> tuple[dict[str, Any], list[Finding]]:
    """Columns, empty and repeated texts, and pairs that are equal, in the first `ROWS_READ` rows."""
    from embedkit.data import read_rows

    rows = list(itertools.islice(read_rows(path), ROWS_READ))
    if not rows:
        raise UserError("there are no rows", where=path, remedy="check how it was written")
    texts = {
        column: [row[column] for row in rows if isinstance(row.get(column), str)]
        for column in rows[0]
        if isinstance(rows[0][column], str)
    }
    facts: dict[str, Any] = {"rows looked at": len(rows), "columns": list(rows[0])}
    findings: list[Finding] = []
    for column, cells in texts.items():
        different = len(set(cells))
        words = sum(len(cell.split()) for cell in cells) / max(1, len(cells))
        facts[f"column {column}"] = f"{different:,} different texts, {words:.1f} words on average"
        if words > 2:  # names, labels and ids are no texts
            findings += _column_findings(column, cells, different)
    for one, two in itertools.combinations(texts, 2):
        equal = sum(row.get(one) == row.get(two) for row in rows)
        if equal > 0.01 * len(rows) and len(set(texts[one])) > 20:
            findings.append(
                Finding(
                    f"columns {one!r} and {two!r} hold equal texts",
                    f"{equal:,} of {len(rows):,} rows",
                    "a positive that equals its anchor teaches nothing: drop these rows",
                )
            )
    return facts, findings


def _column_findings(column: str, cells: list[str], different: int) -> Iterator[Finding]:
    empty = sum(not cell.strip() for cell in cells)
    if empty:
        yield Finding(f"column {column!r} has empty texts", f"{empty:,} of {len(cells):,}", "drop these rows")
    if different > 20 and different < 0.8 * len(cells):
        most, count = Counter(cells).most_common(1)[0]
        yield Finding(
            f"column {column!r} repeats its texts",
            f"{different:,} different among {len(cells):,}; {most[:40]!r} {count:,} times",
            "equal texts in a batch are false negatives: set data.sampler=no-duplicates",
        )


def examine_recipe(recipe: Recipe) -> tuple[dict[str, Any], list[Finding]]:
    """The training rows as the recipe reads them, and texts that training and evaluation share."""
    from embedkit.training import setup

    method = setup.check(recipe)
    every = recipe.model_copy(update={"data": recipe.data.model_copy(update={"drop_last": False})})
    rows = setup.open_rows(every, method)
    found = rows.summary()
    facts = {"rows": rows.num_rows, "dropped": found.get("dropped", {})}
    findings = [
        Finding("rows are left out", f"{count:,} rows: {reason}", "mend the data, or leave it if this is meant")
        for reason, count in found.get("dropped", {}).items()
    ]
    if rows.num_rows is not None:
        repeated = found["duplicates"]
        if repeated["positive_is_anchor"] > 0.01 * rows.num_rows:
            share = f"{repeated['positive_is_anchor']:,} of {rows.num_rows:,} rows"
            findings.append(Finding("positives equal their anchors", share, "drop these rows"))
        if repeated["anchors"] > 0.2 * rows.num_rows and recipe.data.sampler == "shuffled":
            share = f"{repeated['anchors']:,} of {rows.num_rows:,} anchors occurred before"
            findings.append(Finding("anchors repeat", share, "set data.sampler=no-duplicates"))
    if recipe.evaluation is not None and rows.num_rows is not None:
        findings += _overlap(recipe, (text for batch in rows.batches(0) for row in batch.rows for text in _texts(row)))
    return facts, findings


def _texts(row: Any) -> Iterator[str]:
    for value in row.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (item for item in value if isinstance(item, str))


def _plain(text: str) -> str:
    """Text without case, punctuation and spacing."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())


def _overlap(recipe: Recipe, trained: Iterable[str]) -> Iterator[Finding]:
    from embedkit.evaluation import OpenSuite, open_suite

    assert recipe.evaluation is not None
    config = recipe.evaluation
    for split in dict.fromkeys([config.split, "test"]):
        suite = open_suite(config.suite, config.data, config.tasks, split)
        if not isinstance(suite, OpenSuite):
            return
        items = [item for task in suite.tasks for request in task.requests() for item in request.items]
        scored = {_plain(item) for item in items if isinstance(item, str) and len(item.split()) > 3}
        if split == config.split:
            seen = {_plain(text) for text in trained}
        common = scored & seen
        if common:
            yield Finding(
                f"evaluation texts of split {split!r} are in the training data",
                f"{len(common):,} of {len(scored):,} texts, e.g. {min(common)[:60]!r}",
                "leave these rows out of training (data.train.N.where), or the score is too high",
            )


def examine_run(folder: Path) -> tuple[dict[str, Any], list[Finding]]:
    """The log of a run: a loss that does not move, waiting for data, padding, gradients that are not finite."""
    from embedkit.recipe_io import load_recipe

    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    try:
        rows = [row for row in map(json.loads, lines) if "loss" in row]
    except ValueError as error:
        raise UserError(f"not a log: {error}", where=str(folder / "log.jsonl"), remedy="give another folder") from None
    if not rows:
        raise UserError("no step has been logged yet", where=str(folder / "log.jsonl"), remedy="wait, or train on")
    batch = load_recipe(folder / "recipe.yaml").train.batch_size
    last = rows[-1]
    mean = {key: sum(row.get(key, 0.0) for row in rows) / len(rows) for key in ("data_wait_share", "padding_share")}
    facts = {"steps": last["step"], "first loss": rows[0]["loss"], "last loss": last["loss"], **mean}
    findings = []
    if last["step"] >= 50 and len(rows) >= 3 and abs(last["loss"] - math.log(batch)) < 0.02 * math.log(batch):
        findings.append(
            Finding(
                "the loss stays at ln(batch): the model tells no pair from another",
                f"{last['loss']:.4f} after {last['step']:,} steps, ln({batch}) = {math.log(batch):.4f}",
                "check the columns and the learning rate; a collapsed encoder gives this too",
            )
        )
    if mean["data_wait_share"] > 0.1:
        share = f"{mean['data_wait_share']:.0%} of the time"
        findings.append(Finding("training waits for data", share, "put the data on a faster disk, or do not stream it"))
    if any(not math.isfinite(row.get("gradient_norm", 0.0)) or not math.isfinite(row["loss"]) for row in rows):
        steps = [row["step"] for row in rows if not math.isfinite(row.get("gradient_norm", 0.0) + row["loss"])]
        findings.append(
            Finding("loss or gradient was not finite", f"at step {steps[0]:,}", "lower train.lr, or use bf16 for fp16")
        )
    return facts, findings


def examine_model(model: Model) -> tuple[dict[str, Any], list[Finding]]:
    """Weights that are not finite, and the shape of the cloud of vectors of 500 built-in sentences."""
    import numpy as np
    import torch

    from embedkit.data import builtin

    bad = [name for name, value in model.state_dict().items() if not bool(torch.isfinite(value.float()).all())]
    described = model.describe()
    if bad:
        remedy = "the training diverged: take an earlier checkpoint"
        return described, [Finding("weights are not finite", f"{len(bad)} tensors, first {bad[0]}", remedy)]
    texts = [row["sentence1"] for row in itertools.islice(builtin.rows("graded-test"), 500)]
    vectors = model.encode(texts, normalize=False)
    lengths = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.maximum(lengths, 1e-12)[:, None]
    cosines = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    energy = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False) ** 2
    rank = float(energy.sum() ** 2 / max(float((energy**2).sum()), 1e-30))
    facts = described | {
        "mean cosine of different sentences": float(cosines.mean()),
        "directions that carry the variance": rank,
    }
    return facts, [finding for check in _MODEL_CHECKS if (finding := check(lengths, cosines, rank)) is not None]


Check = Callable[["np.ndarray", "np.ndarray", float], "Finding | None"]


def _zero(lengths: np.ndarray, cosines: np.ndarray, rank: float) -> Finding | None:
    zero = int((lengths < 1e-8).sum())
    remedy = "check tokenizer and pooling: nothing of these texts reaches the vector"
    return Finding("some vectors are zero", f"{zero} of {len(lengths)}", remedy) if zero else None


def _collapsed(lengths: np.ndarray, cosines: np.ndarray, rank: float) -> Finding | None:
    mean = float(cosines.mean())
    if mean > 0.99:
        remedy = "the encoder has collapsed: lower train.lr, or choose an objective with negatives"
        return Finding("all sentences have nearly the same vector", f"mean cosine {mean:.4f}", remedy)
    if mean > 0.8:
        remedy = "usual before contrastive training; train with negatives (embedkit recipes), or centre the vectors"
        return Finding("the vectors lie in a narrow cone", f"mean cosine {mean:.2f}", remedy)
    return None


def _few_directions(lengths: np.ndarray, cosines: np.ndarray, rank: float) -> Finding | None:
    if rank < 3 and float(cosines.mean()) <= 0.99:
        remedy = "add negatives or a term against dimensional collapse (vicreg, barlow-twins)"
        return Finding("few directions carry the variance", f"participation ratio {rank:.1f}", remedy)
    return None


_MODEL_CHECKS: tuple[Check, ...] = (_zero, _collapsed, _few_directions)
