"""The model card of a model folder: a README.md in the hub's format, made from the recipe and the result files.

The front matter holds the scores as a ``model-index``, which the hub shows and searches. The text below it belongs to
the user once it has been changed: then only the front matter is renewed.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from embedkit.errors import ModelError
from embedkit.evaluation.core.task import TASKS
from embedkit.evaluation.report.report import Report, plain, write_text

_MARK = "<!-- written by embedkit; delete this line to keep the text below from being renewed -->"

_RESULTS = "evaluation"


def model_index(name: str, reports: Sequence[Report]) -> list[dict[str, Any]]:
    """The scores in the hub's ``model-index`` form: an entry a task, with the hash of its data as revision."""
    results = []
    for report in reports:
        settings = report.settings
        for task, result in report.tasks.items():
            kind = str(settings.get("tasks", {}).get(task, {}).get("kind", report.suite))
            data = settings.get("data", {}).get(task, {})
            dataset = {"name": f"{task} ({report.suite})", "type": task, "split": str(settings.get("split", "test"))}
            revision = data.get("sha256") or data.get("revision")
            if revision:
                dataset["revision"] = str(revision)
            metric = {"type": result.metric, "name": result.metric, "value": round(result.score, 4)}
            results.append({
                "task": {"type": _hub_type(kind), "name": f"{report.suite}/{task}"},
                "dataset": dataset, "metrics": [metric],
            })  # fmt: skip
    return [{"name": name, "results": results}] if results else []


def _hub_type(kind: str) -> str:
    """What the hub calls a kind of task; results of older versions may name kinds that are gone."""
    return (TASKS[kind].hub_type if kind in TASKS else "") or kind


def _front(name: str, own: Mapping[str, Any], reports: Sequence[Report]) -> dict[str, Any]:
    recipe = own.get("recipe") or {}
    dual = own.get("kind") == "dual"
    found: dict[str, Any] = {
        "library_name": "open_clip" if dual else "sentence-transformers",
        "pipeline_tag": "zero-shot-image-classification" if dual else "sentence-similarity",
        "tags": [
            "embedkit",
            "embeddings",
            *(["sentence-transformers", "sentence-similarity"] if not dual else ["clip"]),
        ],
    }
    base = (recipe.get("model") or {}).get("name")
    if base:
        found["base_model"] = base
    index = model_index(name, reports)
    if index:
        found["model-index"] = index
    return found


def _score_lines(reports: Sequence[Report]) -> list[str]:
    lines = []
    for report in reports:
        lines += [f"### {_safe(report.suite)}", "", "| task | metric | score | 95 % interval |", "|---|---|---|---|"]
        for task, score in report.scores.items():
            result = report.tasks.get(task)
            bounds = result.interval if result is not None else report.interval
            said = f"{bounds[0]:.2f} to {bounds[1]:.2f}" if bounds is not None else ""
            metric = result.metric if result is not None else "mean"
            lines.append(f"| {_safe(task)} | {_safe(metric)} | {score:.2f} | {said} |")
        lines += ["", *(f"Note: {_safe(note)}" for note in report.notes)]
        settings, versions = report.settings, report.settings.get("versions", {})
        lines += [
            _safe(
                f"Split {settings.get('split')}, seed {settings.get('seed')}, model hash {report.model.get('hash')}, "
                f"{settings.get('precision')}, embedkit {versions.get('embedkit')}, torch {versions.get('torch')}, "
                f"{settings.get('date')}."
            ),
            "",
        ]
    return lines


def _safe(text: object) -> str:
    """A text from elsewhere on one line of Markdown: no HTML, no cell of a table, no link or image of its own."""
    found = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return found.replace("|", "\\|").replace("](", "]\\(")


def _fenced(kind: str, text: str) -> list[str]:
    """A block of code whose fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [f"{fence}{kind}", text, fence]


def _body(name: str, own: Mapping[str, Any], reports: Sequence[Report]) -> str:
    spec = own.get("spec") or {}
    lines = [_MARK, "", f"# {_safe(name)}", ""]
    recipe = own.get("recipe") or {}
    if recipe.get("description"):
        lines += [_safe(recipe["description"]), ""]
    use = [
        "import embedkit", "", f"model = embedkit.load({json.dumps(name)})",
        'vectors = model.encode(["one text", "another text"])', "print(model.similarity(vectors, vectors))",
    ]  # fmt: skip
    lines += ["## Use", "", *_fenced("python", "\n".join(use)), ""]
    known = {key: spec[key] for key in sorted(spec) if isinstance(spec[key], str | int | float | bool)}
    if known:
        lines += ["## Model", "", *(f"- {_safe(key)}: {_safe(value)}" for key, value in known.items()), ""]
    if recipe:
        said = yaml.safe_dump(plain(_without_empty(recipe)), sort_keys=False, allow_unicode=True).rstrip()
        lines += ["## Training", "", "The recipe of the run:", "", *_fenced("yaml", said), ""]
    if reports:
        lines += ["## Evaluation", "", *_score_lines(reports)]
    return "\n".join(lines).rstrip() + "\n"


def _without_empty(value: Any) -> Any:
    """The value without None and empty parts, which only repeat defaults."""
    if isinstance(value, Mapping):
        parts = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in parts.items() if item is not None and item not in ({}, [], "")}
    return value


def model_card(name: str, own: Mapping[str, Any], reports: Sequence[Report] = (), body: str | None = None) -> str:
    """The text of a card.

    Parameters
    ----------
    name : str
        How the card calls the model.
    own : mapping
        The content of the model's ``embedkit.json``: kind, spec, recipe.
    reports : sequence of Report
        Results to show.
    body : str, optional
        Text to keep below the front matter instead of a new one.
    """
    front = yaml.safe_dump(plain(_front(name, own, reports)), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{front}---\n\n{body if body is not None else _body(name, own, reports)}"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"not a model folder of embedkit: {error}", where=str(path)) from error
    if not isinstance(content, dict):
        raise ModelError("not a model folder of embedkit", where=str(path))
    return content


def _kept(path: Path) -> str | None:
    """The body of a card that is no longer embedkit's, to be kept; None where a new one may be written."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    if _MARK in text:
        return None
    if text.startswith("---\n") and "\n---\n" in text[4:]:
        text = text[4:].partition("\n---\n")[2]
    return text.lstrip("\n")


def _with_earlier(folder: Path, own: Mapping[str, Any], reports: Sequence[Report]) -> list[Report]:
    """Keep `reports` in the folder, without samples, and return them with the earlier ones of the same weights."""
    known = {own.get("hash"), *(report.model.get("hash") for report in reports)}
    for report in reports:
        name = f"{report.suite}-{report.settings.get('split', 'test')}"
        if report.suite == "mteb":  # a list of tasks rather than a suite
            name += f"-{zlib.crc32(','.join(report.tasks).encode()):08x}"
        write_text(folder / _RESULTS / f"{name}.json", json.dumps(report.to_json(), indent=1) + "\n", "a result")
    stored = [Report.load(path) for path in sorted((folder / _RESULTS).glob("*.json"))]
    return [report for report in stored if report.model.get("hash") in known]


def write_card(folder: str | Path, reports: Sequence[Report] = (), *, name: str | None = None) -> Path:
    """Write ``README.md`` into a model folder, in one step; a text that a user has changed is kept.

    The results are kept in the folder ``evaluation`` of the model, so that a card shows those of earlier calls too, as
    long as the model has the same weights.

    Raises
    ------
    ModelError, DataError, DiskError
        `folder` was not written by embedkit; a result in it is damaged; it cannot be written.
    """
    folder = Path(folder)
    own, path = _read(folder / "embedkit.json"), folder / "README.md"
    recipe = own.get("recipe") or {}
    shown = _with_earlier(folder, own, reports)
    text = model_card(name or recipe.get("name") or folder.name, own, shown, _kept(path))
    return write_text(path, text, "the model card")


def _kept_at(run: Path, step: int) -> Path:
    return run / "evaluations" / f"step-{step:08d}.json"


def keep_report(run: str | Path, step: int, report: Report) -> Path:
    """Keep the result of an evaluation during training in the run's folder, without samples."""
    text = json.dumps(report.to_json(), indent=1) + "\n"
    return write_text(_kept_at(Path(run), step), text, "a result")


def card_of_run(run: str | Path, step: int | None) -> Path:
    """Write the card of the folder ``model`` of a run, with the result that was kept at `step` where there is one."""
    kept = None if step is None else _kept_at(Path(run), step)
    reports = [Report.load(kept)] if kept is not None and kept.is_file() else []
    return write_card(Path(run) / "model", reports)
