"""What the cases of broken data share: a recipe over some files, and the three ways in which a case may end well."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.faults.frame import Outcome, World, command

MODEL = {
    "config": {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
               "intermediate_size": 16, "max_position_embeddings": 32},
    "tokenizer": "builtin", "pooling": "mean",
}  # fmt: skip
TEXTS = [
    ("a man plays the guitar", "someone makes music"), ("two dogs run over grass", "animals are outside"),
    ("a woman reads a book", "a person is reading"), ("the train leaves the station", "a train departs"),
    ("children eat ice cream", "kids have something sweet"), ("it rains in the city", "the weather is wet"),
    ("a cat sleeps on the sofa", "an animal rests"), ("he cooks soup for dinner", "a man prepares food"),
]  # fmt: skip
"""Eight good pairs."""


@dataclass(frozen=True)
class Link:
    """A symbolic link, to a path below the case's own folder."""

    target: str


Content = str | bytes | Link


@dataclass(frozen=True)
class Broken:
    """A data set with one fault.

    Attributes
    ----------
    name : str
        What is wrong.
    files : mapping
        Path below the data folder -> content; the first one is the source of the recipe, unless `source` says else.
    parts : sequence of str
        What the one line must hold: file and row, column, remedy.
    skipped : mapping or None
        Reason -> rows that ``on_bad_row: skip`` must count, of the rows in the file; None where there is nothing to
        skip.
    source : mapping
        Keys of the source, over ``path``.
    change : mapping
        Sections of the recipe, over the usual ones.
    """

    name: str
    files: Mapping[str, Content]
    parts: Sequence[str] = ()
    skipped: Mapping[str, int] | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    change: Mapping[str, Any] = field(default_factory=dict)


def tsv(*bad: str | bytes, header: str = "anchor\tpositive") -> bytes:
    """The good pairs as a table; the lines of `bad` stand in place of the fourth pair (line 5 of the file) and on."""
    lines: list[str | bytes] = [header, *("\t".join(pair) for pair in TEXTS)]
    lines[4 : 4 + len(bad)] = bad
    return b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n"


def csv(*bad: str | bytes, header: str = "anchor,positive") -> bytes:
    """As `tsv`, with commas."""
    lines: list[str | bytes] = [header, *(",".join(pair) for pair in TEXTS)]
    lines[4 : 4 + len(bad)] = bad
    return b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n"


def jsonl(*bad: Any, **more: Any) -> bytes:
    """As `tsv`: objects, or text as it is; the fourth line and on is `bad`. `more` are keys of every good row."""
    lines: list[Any] = [{"anchor": a, "positive": p, **more} for a, p in TEXTS]
    lines[3 : 3 + len(bad)] = bad
    return "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines).encode()


def write(folder: Path, files: Mapping[str, Content]) -> None:
    """Put files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.unlink(missing_ok=True)
            path.symlink_to(folder.parent / content.target)
            continue
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def recipe(world: World, broken: Broken, **change: Any) -> Path:
    """A recipe over the files of a case, in the case's own folder."""
    data = world.folder / "data"
    write(data, broken.files)
    source = {"path": str(data / next(iter(broken.files), "t.tsv")), **broken.source}
    source["path"] = str(data / source["path"])
    given: dict[str, Any] = {
        "name": "bad", "method": "pairs", "model": MODEL, "data": {"train": [source]},
        "train": {"max_steps": 1, "batch_size": 4, "output": str(world.folder / "run"), "precision": "fp32"},
    }  # fmt: skip
    for section, values in [*broken.change.items(), *change.items()]:
        values = json.loads(json.dumps(values).replace("FOLDER", str(world.folder)))
        given[section] = {**given[section], **values} if section in ("data", "train") else values
    path = world.folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    return path


@contextmanager
def no_model() -> Iterator[None]:
    """Whatever is wrong with data is said before weights are made or read."""
    from unittest.mock import patch

    with patch("embedkit.training.loop.build.build_state", side_effect=AssertionError("a model was built")):
        yield


def refused(world: World, broken: Broken) -> Outcome:
    """`embedkit train` ends with exit code 2 and one line, before a model is made and anything is written.

    Where rows can be skipped, the same recipe with ``on_bad_row: skip`` counts them by reason and keeps all others.
    """
    path = recipe(world, broken)
    with no_model():
        ended = command("train", path)
    line = one_line(ended, broken.parts)
    assert not (world.folder / "run").exists(), "a run folder was made"
    if broken.skipped is not None:
        rows = opened(recipe(world, broken, data={**_data_of(path), "on_bad_row": "skip"}))
        said = rows.summary()
        read = sum(source["read"] for source in said["sources"])
        assert said["dropped"] == dict(broken.skipped), said["dropped"]
        assert read == said["rows"] + sum(broken.skipped.values()), said
        assert len(rows.left_out()) == sum(broken.skipped.values())
        line = f"{line} | skipped: {dict(broken.skipped)}, {said['rows']} kept"
    return Outcome(line.replace(str(world.folder), ""), kind="clear error")


def one_line(ended: Any, parts: Sequence[str]) -> str:
    """The line of a refusal: it names a place and a remedy, and nothing else is printed."""
    line = ended.line(*parts)
    assert isinstance(line, str)
    assert ended.err.count("\n") == 1, ended.err
    assert line.startswith("embedkit: "), line
    assert "; " in line, f"no remedy: {line}"
    assert len(line) < 1500
    return line


def _data_of(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]
    assert isinstance(found, dict)
    return found


def opened(path: Path) -> Any:
    """The training rows of a recipe, as a run opens them."""
    from embedkit.config.recipe_io import load_recipe
    from embedkit.training import setup

    loaded = load_recipe(path)
    return setup.open_rows(loaded, setup.check(loaded))


def all_rows(rows: Any) -> list[dict[str, Any]]:
    """Every row in the order of the files, without the roles it lacks."""
    return [{k: v for k, v in row.items() if v not in (None, [])} for row in rows.block(range(rows.num_rows)).rows]


def accepted(world: World, broken: Broken, wanted: Sequence[Mapping[str, Any]], checked: str) -> Outcome:
    """Legal input: exactly these rows come out, and nothing is warned of."""
    rows = opened(recipe(world, broken))
    found = all_rows(rows)
    assert found == [dict(row) for row in wanted], f"{found[:9]} instead of {wanted[:9]}"
    assert not rows.summary()["dropped"]
    # words like null are texts, and told; so is a column that nothing reads
    told = ("once may have been an empty cell", "nothing reads role")
    notes = [note for note in rows.summary()["notes"] if not any(words in note for words in told)]
    assert not notes, notes
    return Outcome(f"{len(found)} rows; {checked}", kind="accepted")


def warned(world: World, broken: Broken) -> Outcome:
    """Legal and suspicious: a line at the start of training names the source and what looks wrong; training goes on."""
    path = recipe(world, broken)
    ended = command("train", path)
    assert ended.code == 0, ended.err[-800:]
    lines = [line for line in ended.err.splitlines() if all(part in line for part in broken.parts)]
    assert len(lines) == 1, f"{broken.parts} not in one line of: {ended.err}"
    checked = command("validate", path, "--full")
    assert lines[0] in checked.out.splitlines(), f"validate does not say it: {checked.out}"
    return Outcome(lines[0].replace(str(world.folder), ""), kind="warned")
