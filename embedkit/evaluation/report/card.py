"""The model card of a model folder: a README.md in the hub's format, made from the recipe and the result files.

The front matter holds the scores as a ``model-index``, which the hub shows and searches. The text below it belongs to
the user once it has been changed: then only the front matter is renewed.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from embedkit.errors import ModelError
from embedkit.evaluation.core.task import kind_in
from embedkit.evaluation.report.rendering import one_line, without_empty, without_folders
from embedkit.evaluation.report.report import Report, plain, write_text

_MARK = "<!-- written by embedkit; delete this line to keep the text below from being renewed -->"

_RESULTS = "evaluation"


def model_index(name: str, reports: Sequence[Report]) -> list[dict[str, Any]]:
    """The scores in the hub's ``model-index`` form: an entry a task, with the hash of its data as revision.

    Examples
    --------
    >>> from embedkit.evaluation.core.task import TaskResult
    >>> result = TaskResult("faq", "ndcg@10", 61.2, {"ndcg@10": 61.2})
    >>> report = Report("own-retrieval", {"faq": result}, {"faq": 61.2}, "faq", {"name": "mine"}, {"split": "test"})
    >>> model_index("mine", [report])[0]["results"][0]["metrics"]
    [{'type': 'ndcg@10', 'name': 'ndcg@10', 'value': 61.2}]
    """
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
    task = kind_in(kind)
    return (task.hub_type if task is not None else "") or kind


@dataclass(frozen=True)
class CardFacts:
    """What a card contains besides recipe and results, read from the model's folder and from its run's.

    Attributes
    ----------
    readers : tuple of str
        Libraries that can read the folder as it is: "sentence-transformers", "open_clip", "transformers".
    base : str or None
        Hub id of the model that training began with, where it is one.
    license : str or None
        That of the base model, where its card is available and says so.
    samples : mapping
        What became of the training rows: ``samples.json`` of the run.
    held_out : mapping
        Scores on rows that were held out of training: ``holdout.json`` of the run.

    Examples
    --------
    >>> CardFacts(readers=("sentence-transformers",)).library
    'sentence-transformers'
    """

    readers: tuple[str, ...] = ()
    base: str | None = None
    license: str | None = None
    samples: Mapping[str, Any] = field(default_factory=dict)
    held_out: Mapping[str, Any] = field(default_factory=dict)

    @property
    def library(self) -> str:
        """The library that the hub names for the model."""
        return self.readers[0] if self.readers else "embedkit"


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_MADE_OF = {
    "sentence-transformers": ("modules.json",),
    "open_clip": ("open_clip_config.json",),
    "transformers": ("config.json", "model.safetensors"),
}
"""Files of a folder by the library that reads it; of a text model's folder sentence-transformers comes first."""


def facts_of(folder: Path, own: Mapping[str, Any]) -> CardFacts:
    """What is known of a model folder: readers, base model, training rows, held-out scores.

    Examples
    --------
    >>> facts_of(Path("no such folder"), {"recipe": {"model": {"name": "/home/me/base"}}}).base is None
    True
    """
    readers = tuple(name for name, files in _MADE_OF.items() if all((folder / file).is_file() for file in files))
    base, terms = _base_of((own.get("recipe") or {}).get("model") or {})
    run = folder.parent
    return CardFacts(readers, base, terms, _json(run / "samples.json"), _json(run / "holdout.json"))


def _base_of(model: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Hub id and license of the base model; of a local folder those that its own card names."""
    name = str(model.get("name") or "")
    local = Path(name) if name else Path("no base")
    if name and not local.exists():
        return (name if _HUB_ID.fullmatch(name) else None), None
    front = _front_matter(local / "README.md")
    base, terms = front.get("base_model"), front.get("license")
    usable = isinstance(base, str) and _HUB_ID.fullmatch(base) and not Path(base).exists()
    return (str(base) if usable else None), (terms if isinstance(terms, str) else None)


def _front_matter(path: Path) -> Mapping[str, Any]:
    """The front matter of a card; nothing where there is none that can be read."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        front = yaml.safe_load(text[4:].partition("\n---")[0]) if text.startswith("---\n") else None
    except yaml.YAMLError:
        front = None  # another tool's card, which is not ours to judge
    return front if isinstance(front, Mapping) else {}


def _json(path: Path) -> Mapping[str, Any]:
    return _read(path) if path.is_file() else {}


def _front(name: str, own: Mapping[str, Any], reports: Sequence[Report], facts: CardFacts) -> dict[str, Any]:
    dual = own.get("kind") == "dual"
    kind = "zero-shot-image-classification" if dual else "sentence-similarity"
    front: dict[str, Any] = {"library_name": facts.library, "pipeline_tag": kind}
    if facts.license is not None:
        front["license"] = facts.license
    front["tags"] = list(dict.fromkeys(
        ["embedkit", "embeddings", *(["clip"] if dual else ["sentence-similarity"]), *facts.readers,
         *(["feature-extraction"] if not dual else [])]
    ))  # fmt: skip
    if facts.base is not None:
        front["base_model"] = facts.base
    index = model_index(name, reports)
    if index:
        front["model-index"] = index
    return front


def _score_lines(reports: Sequence[Report]) -> list[str]:
    lines = []
    for report in reports:
        lines += [f"### {one_line(report.suite)}", "", "| task | metric | score | 95 % interval |", "|---|---|---|---|"]
        for task, score in report.scores.items():
            metric, bounds = report.score_facts(task)
            interval = f"{bounds[0]:.2f} to {bounds[1]:.2f}" if bounds is not None else ""
            lines.append(f"| {one_line(task)} | {one_line(metric)} | {score:.2f} | {interval} |")
        lines += ["", *(f"Note: {one_line(note)}" for note in report.notes)]
        settings, versions = report.settings, report.settings.get("versions", {})
        lines += [
            one_line(
                f"Split {settings.get('split')}, seed {settings.get('seed')}, model hash {report.model.get('hash')}, "
                f"{settings.get('precision')}, embedkit {versions.get('embedkit')}, torch {versions.get('torch')}, "
                f"{settings.get('date')}."
            ),
            "",
        ]
    return lines


def _fenced(kind: str, text: str) -> list[str]:
    """A block of code whose fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [f"{fence}{kind}", text, fence]


_SNIPPETS = {
    "embedkit": """import embedkit

model = embedkit.load({place})
vectors = model.encode({inputs})
print(model.similarity(vectors, vectors))""",
    "sentence-transformers": """from sentence_transformers import SentenceTransformer

model = SentenceTransformer({place})
vectors = model.encode({inputs})
print(model.similarity(vectors, vectors))""",
    "open_clip": """import open_clip

model, preprocess = open_clip.create_model_from_pretrained({hub})
tokenizer = open_clip.get_tokenizer({hub})""",
    "transformers": """from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained({place})
processor = AutoProcessor.from_pretrained({place})""",
}
"""How a model is used, by library; of a text model transformers alone would leave out the pooling."""


def _use(name: str, own: Mapping[str, Any], facts: CardFacts) -> list[str]:
    """The section of snippets: embedkit's, and those of the libraries that read the folder."""
    # the hub's names have these characters alone; a name with others would leave its code span
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:96] or "MODEL"
    place = f"YOUR-NAME/{plain}"
    dual = own.get("kind") == "dual"
    others = [reader for reader in facts.readers if dual or reader != "transformers"]
    lines = ["## Use", "", f"`{place}` stands for the hub id that you give the model, or the path of its folder.", ""]
    for library in ["embedkit", *others]:
        text = _SNIPPETS[library].format(
            place=json.dumps(place), hub=json.dumps(f"hf-hub:{place}"), inputs='["one text", "another text"]'
        )
        lines += [f"With {library}:", "", *_fenced("python", text), ""]
    return lines


def card_on_hub(text: str, repo_id: str) -> str:
    """The text of a card as it stands in a repository of the hub: the snippets name it; a user's own text is as it was.

    Examples
    --------
    >>> text = model_card("faq", {"kind": "text"})
    >>> "YOUR-NAME" in text, "YOUR-NAME" in card_on_hub(text, "ann/faq"), "ann/faq" in card_on_hub(text, "ann/faq")
    (True, False, True)
    """
    if _MARK not in text:
        return text
    text = re.sub(r"^`YOUR-NAME/[\w.-]+` stands for .*\n\n", "", text, flags=re.MULTILINE)
    return re.sub(r"YOUR-NAME/[\w.-]+", repo_id, text)


def _is_smoke(recipe: Mapping[str, Any]) -> bool:
    """Whether the recipe's settings are those of its smoke run."""
    small = recipe.get("smoke") or {}
    for key, value in small.items():
        place: Any = recipe
        for part in str(key).split("."):
            place = place.get(part) if isinstance(place, Mapping) else None
        if plain(place) != plain(value):
            return False
    return bool(small)


def _training(recipe: Mapping[str, Any], facts: CardFacts) -> list[str]:
    """The section on training: rows, held-out scores, the recipe."""
    if not recipe and not facts.samples:
        return []
    lines = ["## Training", ""]
    if _is_smoke(recipe):
        lines += ["This was a smoke run of seconds, to see that all works: the model has learned next to nothing.", ""]
    count, skips = facts.samples.get("trained"), facts.samples.get("skipped")
    if isinstance(count, int):
        left_out = sum(skips.values()) if isinstance(skips, Mapping) else 0
        lines += [f"{count:,} training rows, repeats in later epochs counted, {left_out:,} rows left out.", ""]
    holdout = facts.held_out
    if holdout.get("after") is not None:
        before = f" (before training {holdout['before']:.2f})" if isinstance(holdout.get("before"), int | float) else ""
        words = f"{holdout.get('rows', 0):,} {holdout.get('kind', 'rows')} that were held out of training"
        lines += [f"On {one_line(words)}: {one_line(holdout.get('metric'))} {holdout['after']:.2f}{before}.", ""]
    if recipe:
        settings = without_empty({key: value for key, value in recipe.items() if key != "smoke"})
        text = yaml.safe_dump(plain(without_folders(settings)), sort_keys=False, allow_unicode=True).rstrip()
        lines += ["The recipe of the run:", "", *_fenced("yaml", text), ""]
    return lines


def _body(name: str, own: Mapping[str, Any], reports: Sequence[Report], facts: CardFacts) -> str:
    spec, recipe = own.get("spec") or {}, own.get("recipe") or {}
    lines = [_MARK, "", f"# {one_line(name)}", ""]
    if recipe.get("description"):
        lines += [one_line(recipe["description"]), ""]
    lines += _use(name, own, facts)
    values = {key: spec[key] for key in sorted(spec) if isinstance(spec[key], str | int | float | bool)}
    if values:
        lines += ["## Model", "", *(f"- {one_line(key)}: {one_line(value)}" for key, value in values.items())]
        prompts = spec.get("prompts")
        if isinstance(prompts, Mapping) and prompts:
            lines += [f"- prompt {one_line(key)}: {one_line(json.dumps(text))}" for key, text in prompts.items()]
        lines.append("")
    lines += _training(recipe, facts)
    if reports:
        lines += ["## Evaluation", "", *_score_lines(reports)]
    return "\n".join(lines).rstrip() + "\n"


def model_card(
    name: str,
    own: Mapping[str, Any],
    reports: Sequence[Report] = (),
    body: str | None = None,
    facts: CardFacts = CardFacts(),
) -> str:
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
    facts : CardFacts
        What else is known of the model.

    Examples
    --------
    >>> model_card("faq", {"kind": "text"}).splitlines()[1]
    'library_name: embedkit'
    """
    front = yaml.safe_dump(plain(_front(name, own, reports, facts)), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{front}---\n\n{body if body is not None else _body(name, own, reports, facts)}"


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
    """The results of the same weights, earlier ones too; `reports` are kept in the folder, without samples."""
    hashes = {own.get("hash"), *(report.model.get("hash") for report in reports)}
    for report in reports:
        name = f"{report.suite}-{report.settings.get('split', 'test')}"
        if report.suite == "mteb":  # a list of tasks rather than a suite
            name += f"-{zlib.crc32(','.join(report.tasks).encode()):08x}"
        write_text(folder / _RESULTS / f"{name}.json", json.dumps(report.to_json(), indent=1) + "\n", "a result")
    earlier = [Report.load(path) for path in sorted((folder / _RESULTS).glob("*.json"))]
    return [report for report in earlier if report.model.get("hash") in hashes]


def write_card(folder: str | Path, reports: Sequence[Report] = (), *, name: str | None = None) -> Path:
    """The card of a model folder, its ``README.md``, written in one step; a text that a user has changed is kept.

    The results are kept in the folder ``evaluation`` of the model, so that a card shows those of earlier calls too, as
    long as the model has the same weights.

    Raises
    ------
    ModelError, DataError, DiskError
        `folder` was not written by embedkit; a result in it is damaged; it cannot be written.

    Examples
    --------
    >>> _ = Path("embedkit.json").write_text('{"kind": "text", "spec": {"pooling": "mean"}}')
    >>> "pooling: mean" in write_card(".", name="faq").read_text()
    True
    """
    folder = Path(folder)
    own, path = _read(folder / "embedkit.json"), folder / "README.md"
    recipe = own.get("recipe") or {}
    results = _with_earlier(folder, own, reports)
    title = name or recipe.get("name") or folder.absolute().name
    text = model_card(title, own, results, _kept(path), facts_of(folder, own))
    return write_text(path, text, "the model card")


def _kept_at(run: Path, step: int) -> Path:
    return run / "evaluations" / f"step-{step:08d}.json"


def keep_report(run: str | Path, step: int, report: Report) -> Path:
    """The file in the run's folder that now keeps the result of an evaluation during training, without samples.

    Examples
    --------
    >>> report = Report("sts", {}, {"avg": 61.2}, "avg", {"name": "mine"}, {"split": "dev"})
    >>> keep_report("run", 100, report).as_posix()
    'run/evaluations/step-00000100.json'
    """
    text = json.dumps(report.to_json(), indent=1) + "\n"
    return write_text(_kept_at(Path(run), step), text, "a result")


def card_of_run(run: str | Path, step: int | None) -> Path:
    """The card of the folder ``model`` of a run, written with the result that was kept at `step`, if there is one.

    Examples
    --------
    >>> Path("run/model").mkdir(parents=True)
    >>> _ = Path("run/model/embedkit.json").write_text('{"kind": "text", "recipe": {"name": "pairs"}}')
    >>> _ = keep_report("run", 100, Report("sts", {}, {"avg": 61.2}, "avg", {"hash": None}, {"split": "dev"}))
    >>> "| avg | mean | 61.20 |" in card_of_run("run", 100).read_text()
    True
    """
    path = None if step is None else _kept_at(Path(run), step)
    reports = [Report.load(path)] if path is not None and path.is_file() else []
    return write_card(Path(run) / "model", reports)
