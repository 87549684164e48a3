"""What comes out: pages, cards and lines with hostile text; names that would lead elsewhere; secrets; calls home."""

from __future__ import annotations

import contextlib
import html.parser
import json
import logging
import shutil
import socket
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.faults.frame import Outcome, World, case, changed, command
from tests.faults.hostile import environment, model_copy, quietly, refused

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg onload=alert(1)>"
EVIL += " [x](javascript:alert(1)) ```\n# head"


def _hostile(value: Any) -> Any:
    """A result with every text in it replaced, keys of free mappings too."""
    if isinstance(value, str):
        return EVIL
    if isinstance(value, dict):
        return {key: _hostile(item) for key, item in value.items()}
    return [_hostile(item) for item in value] if isinstance(value, list) else value


def _result(name: str = EVIL) -> dict[str, Any]:
    task = {
        "metric": name, "score": 71.5, "interval": [70, 73], "metrics": {name: 71.5, "b": 1.0}, "notes": [name],
        "details": {
            "subsets": {name: {"spearman": 1.0}, "b": {"spearman": 2.0}}, "groups": {name: {"anisotropy": 1.0}},
            "by_class": {name: 2.0}, "cosine_counts": {name: [1, 2, 3]}, "spectrum": [1.0, 0.5],
        },
    }  # fmt: skip
    samples = {"statistic": "mean", "unit": 100.0, "values": {"value": [0.5, 0.7, 0.9]}}
    return {
        "format": 1, "suite": name, "scores": {name: 71.5, "avg": 71.5}, "main": "avg", "interval": [70, 73],
        "notes": [name], "tasks": {name: task}, "samples": {name: samples},
        "model": {"name": name, "hash": name, "path": name, name: name},
        "settings": {
            "split": name, "prompt": name, "pooler": name, "precision": name, "date": name, "dim": name,
            "max_length": name, "versions": {"embedkit": name, name: name}, "data": {name: {"sha256": name}},
            "tasks": {name: {"kind": name}},
        },
        "timing": {"encode_seconds": 1.0},
    }  # fmt: skip


class _Page(html.parser.HTMLParser):
    """Collects what a browser would obey."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "link", "base", "form", "img"):
            self.bad.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name in ("src", "href", "action", "srcdoc", "xlink:href"):
                self.bad.append(f"{tag} {name}={value}")


@case("security", "HTML in every text of a result: report, comparison, training curves")
def pages(world: World) -> Outcome:
    file, other, page = world.folder / "a.json", world.folder / "b.json", world.folder / "r.html"
    file.write_text(json.dumps(_result()))
    second = _result()
    second["model"]["name"] = EVIL + "2"
    other.write_text(json.dumps(second))
    run = world.folder / "<script>run"
    run.mkdir()
    row = {"step": 1, "loss": 1.0, "lr": 0.1, "scores": {EVIL: 1.0}}
    (run / "log.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "step": 2}) + "\n")
    assert command("eval", "--compare", file, other, "--report", page).code == 0
    from embedkit.evaluation.report.html import html_report
    from embedkit.evaluation.report.report import load_reports

    texts = [page.read_text(), html_report(load_reports(file), title=EVIL, runs=[run])]
    for text in texts:
        assert "alert(1)" in text, "the hostile texts are not in the page at all"
        parser = _Page()
        parser.feed(text)
        assert not parser.bad, parser.bad[:3]
    return Outcome(
        f"{sum(text.count('&lt;script') for text in texts)} tags shown as text, none obeyed", 2, "shown as text"
    )


@case("security", "HTML and Markdown in a model card: recipe, notes, names")
def cards(world: World) -> Outcome:
    from embedkit.evaluation.report.card import model_card
    from embedkit.evaluation.report.report import Report

    recipe = {"name": EVIL, "description": EVIL, "model": {"name": EVIL, "config": {EVIL: EVIL}}}
    own = {"kind": "text", "spec": {"pooling": EVIL, EVIL: 1}, "recipe": recipe}
    card = model_card(EVIL, own, [Report.from_json(_result())])
    front, _, body = card[4:].partition("\n---\n")
    assert yaml.safe_load(front)["model-index"], "the front matter is not whole"
    outside, fence = [], ""
    for line in body.splitlines():
        if fence:
            fence = "" if line == fence else fence
        elif line.startswith("```"):
            fence = line.rstrip("abcdefghijklmnopqrstuvwxyz")
        else:
            outside.append(line)
    assert not fence, "a block of code is open at the end"
    said = "\n".join(outside)
    assert "alert(1)" in said and "\n# head" not in said
    bare = said.replace("<!-- written by embedkit; delete this line to keep the text below from being renewed -->", "")
    assert "<" not in bare and "](javascript" not in bare, bare[:500]
    return Outcome("no tag, no link, no heading and no open fence of a text from elsewhere", 1, "shown as text")


@case("security", "control characters of a terminal in names and cells")
def terminal(world: World) -> Outcome:
    escape, said = "\x1b]0;owned\x07\x1b[2J\u202e\u200b\r", ""
    file = world.folder / f"a{escape}.tsv"
    file.write_text(f"anchor\tpositive{escape}\na\tb\n")
    recipe = world.folder / "r.yaml"
    for words in (
        ("doctor", world.folder / f"none{escape}.tsv"), ("eval", f"x/y/{escape}"), ("train", f"{escape}.yaml"),
        ("train", "quickstart", f"train.{escape}=1"),
        ("train", "quickstart", f"data.train.0.path={json.dumps(f'{file}')}"),
        ("encode", f"x/y/{escape}", "--input", file, "--output", world.folder / "v.npy"), (f"{escape}",),
        ("doctor", f"a{escape}/b{escape}"), ("eval", "x/y/z", "--set", f"{escape}"),
    ):  # fmt: skip
        ended = command(*words)
        assert ended.code == 2, (words, ended)
        said = ended.err.strip().splitlines()[-1]
        assert said.isprintable(), ascii(ended.err)
    recipe.unlink(missing_ok=True)
    return Outcome(ascii(said)[1:-1], 9, "shown as text")


NAMES = (
    "../x",
    "a/b",
    "/etc/x",
    "..",
    ".",
    "",
    "a\0b",
    "x" * 300,
    "a\nb",
    "-x",
    ".x",
    "a b",
    "café/..",
    "~/x",
    "x\\..\\y",
)


@case("security", "names that would leave the output: recipes, suites, tasks, splits, runs, caches")
def names(world: World) -> Outcome:
    from embedkit.config.recipe_io import load_recipe
    from embedkit.evaluation import EmbeddingCache
    from embedkit.evaluation.core.suites import SuiteConfig
    from tests.training import runs

    inside, said, tries = world.folder / "in", "", 0
    inside.mkdir()
    with changed(world.folder) as was:
        for name in NAMES:
            said = refused(lambda: load_recipe({**runs.recipe(), "name": name}), "name")  # noqa: B023 - called at once
            good = {"name": "s", "description": "d", "tasks": [{"name": "t", "kind": "sts"}]}
            bad = [
                {**good, "name": name}, {**good, "tasks": [{"name": name, "kind": "sts"}]},
                {**good, "tasks": [{"name": "t", "kind": "sts", "splits": {name: "test"}}]},
            ]  # fmt: skip
            for suite in bad:
                with pytest.raises(ValueError, match="pattern"):
                    SuiteConfig.model_validate(suite)
            refused(lambda: runs.run(inside, {**runs.recipe(), "name": name}))  # noqa: B023
            tries += 5
        for path in ("x\0y", "x" * 300, "a/" * 3000):
            given = runs.recipe(train={**runs.SETTINGS, "output": path})
            refused(lambda: runs.run(None, given))  # type: ignore[arg-type]  # noqa: B023
            refused(lambda: runs.run(inside / path))  # noqa: B023
            import numpy as np

            vectors = np.ones((1, 2))
            refused(lambda: EmbeddingCache(inside / path).put("m", None, [b"k" * 16], vectors))  # noqa: B023
            for words in (
                ("eval", path, "--suite", "builtin-sts"), ("eval", "m", "--cache", inside / path), ("doctor", path),
                ("eval", "m", "--report", inside / path / "r.html"), ("eval", "m", "--json", inside / path / "r.json"),
                ("train", "quickstart", "--output", inside / path), ("train", path), ("train", f"{path}.yaml"),
                ("encode", path, "--input", path, "--output", inside / "v.npy"), ("export", path, inside / path),
            ):  # fmt: skip
                ended = command(*words)
                assert ended.code == 2, (words[:2], ended.err[-300:])
                tries += 1
        assert not was(), "something was written"
    odd = EmbeddingCache(inside / "cache")
    for name in ("../../x", "/etc/x", "a\0b", "x" * 3000):
        odd.put(name, name, [b"k" * 16], __import__("numpy").ones((1, 2)))
    assert sorted(p.name for p in world.folder.iterdir()) == ["in"]
    return Outcome(said, tries + 4, "refused")


SECRETS = {
    "HF_TOKEN": "hf_CanaryTokenOfHub0123456789", "HUGGING_FACE_HUB_TOKEN": "hf_CanaryTokenOld0123456789",
    "WANDB_API_KEY": "c0ffee" * 6 + "wandb", "AWS_SECRET_ACCESS_KEY": "canary/aws/secret",
    "OPENAI_API_KEY": "sk-canary",
}  # fmt: skip


@case("security", "secrets of the environment, and in an address: not in logs, recipes, cards, results, pages")
def secrets(world: World) -> Outcome:
    from embedkit.config.recipe_io import load_recipe
    from tests.training import runs

    run, said = world.folder / "run", ""
    given = runs.recipe(
        train={**runs.SETTINGS, "max_steps": 2},
        evaluation={"suite": "builtin-sts", "split": "dev", "every": 1},
    )
    recipe = world.folder / "r.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(given))))
    heard = []
    with environment(**SECRETS):
        for words in (
            ("train", recipe, "--output", run, "--json", world.folder / "train.json"),
            ("eval", run, "--suite", "builtin-sts", "--json", world.folder / "e.json", "--report",
             world.folder / "e.html", "--cache", world.folder / "cache"),
            ("export", run / "model", world.folder / "st"), ("doctor", run), ("plan", recipe),
            ("validate", recipe),
        ):  # fmt: skip
            ended = command(*words)
            assert ended.code == 0, (words, ended.err[-500:])
            heard.append(ended.out + ended.err)
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    assert len(files) > 30
    for place, content in [(str(p), p.read_bytes()) for p in files] + [("terminal", "".join(heard).encode())]:
        for secret in SECRETS.values():
            assert secret.encode() not in content, f"{secret} in {place}"
    token = "hf_" + "Ab1" * 11
    for path in (
        f"https://user:{token}@host/x.csv", "https://me:pass%2Fword@host/x.csv", "https://host/x.csv?token=canarytoken1",
        "s3://bucket/x?AWSAccessKeyId=1&Signature=canarysignature", f"x/{token}.csv", "https://ghp_canary@github.com/x",
    ):  # fmt: skip
        bad = runs.recipe(data={"train": [{"path": path}]})
        said = refused(lambda: load_recipe(bad), "data.train.0.path holds a password")  # noqa: B023 - called at once
        from embedkit.data import read_rows

        line = refused(lambda: list(read_rows(path)))  # noqa: B023
        ended = command("train", recipe, f"data.train.0.path={json.dumps(path)}")
        for text in (said, line, ended.err, ended.out):
            for secret in (token, "pass%2Fword", "canarytoken1", "canarysignature", "ghp_canary"):
                assert secret not in text, text
    return Outcome(said, len(files) + 6, "not written")


@contextlib.contextmanager
def _calls() -> Iterator[list[str]]:
    """Names that are looked up and addresses that are called inside, with the hub's client ready to call."""
    import huggingface_hub.constants as hub

    made: list[str] = []
    patch = pytest.MonkeyPatch()

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(f"{host} {''.join(traceback.format_stack(limit=40))}")
        raise socket.gaierror(-2, "Name or service not known")

    def connect(self: socket.socket, address: Any) -> Any:
        made.append(str(address))
        raise OSError(101, "Network is unreachable")

    patch.setattr(socket, "getaddrinfo", lookup)
    patch.setattr(socket.socket, "connect", connect)
    patch.setattr(hub, "HF_HUB_OFFLINE", False)
    patch.setattr(time, "sleep", lambda seconds: None)  # the hub's client tries again and again
    try:
        yield made
    finally:
        patch.undo()


@contextlib.contextmanager
def _lines() -> Iterator[list[str]]:
    """What is logged inside."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("embedkit")
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)


@case("security", "no call home: everything on local folders; a missing path is said to be taken for a hub id")
def network(world: World) -> Outcome:
    from embedkit.formats import load
    from tests.training import runs

    folder = model_copy("own", world.folder / "m")
    plain = model_copy("transformers", world.folder / "t")
    texts = world.folder / "t.txt"
    texts.write_text("a dog\n")
    with _calls() as made:
        load(folder)
        load(plain)
        for kind in ("clip", "open_clip"):
            load(model_copy(kind, world.folder / kind))
        runs.run(
            world.folder / "run",
            runs.recipe(model={"name": str(folder), "config": None, "tokenizer": None, "head": None}),
        )
        for words in (
            ("eval", folder, "--suite", "builtin-sts"), ("doctor", folder), ("doctor", texts),
            ("encode", folder, "--input", texts, "--output", world.folder / "v.npy"),
            ("export", folder, world.folder / "st"),
        ):  # fmt: skip
            ended = command(*words)
            assert ended.code == 0, ended.err[-500:]
        for words in (
            ("eval", "./missing", "--suite", "builtin-sts"), ("doctor", "./missing"), ("encode", world.folder / "none",
             "--input", texts, "--output", "v.npy"), ("doctor", world.folder / "none.csv"), ("doctor", "a/b/c"),
            ("encode", folder, "--input", world.folder / "none.txt", "--output", "v.npy"), ("doctor", "none.csv"),
            ("train", "quickstart", "model={name: ./missing, pooling: mean}"),
            ("train", "quickstart", "data.train.0.path=missing.tsv"), ("train", "none/of.yaml"),
        ):  # fmt: skip
            assert command(*words).code == 2, words
        assert not made, f"called: {made[0]}"
        with _lines() as told:
            line = refused(lambda: load("missing/model"), "neither a folder here nor a model that the hub can give")
            from embedkit.data import read_rows

            refused(lambda: list(read_rows("missing/rows")), "missing/rows")
        assert made, "a hub id is looked for on the hub"
        assert any("missing/model: no folder of this name, so taken for a hub id" in text for text in told), told
        assert any("missing/rows: no file or folder of this name, so a data set" in text for text in told), told
    return Outcome(line, 22, "no call")


@case("security", "downloads: at the revision that was given, no code and no pickle among the files")
def revisions(world: World) -> Outcome:
    import huggingface_hub

    from embedkit.config.model import ModelConfig
    from embedkit.data import read_rows
    from embedkit.factory import build
    from embedkit.formats import load

    source = model_copy("transformers", world.folder / "m")
    commit, asked = "0123456789abcdef0123456789abcdef01234567", []

    def snapshot(name: str, **settings: Any) -> str:
        asked.append((name, settings))
        return str(source)

    def file(name: str, path: str, **settings: Any) -> str:
        asked.append((name, settings))
        return str(world.folder / "x.csv")

    def rows(name: str, **settings: Any) -> Any:
        asked.append((name, settings))
        raise OSError("stop here")

    import datasets

    (world.folder / "x.csv").write_text("text\na dog\n")
    patch = pytest.MonkeyPatch()
    patch.setattr(huggingface_hub, "snapshot_download", snapshot)
    patch.setattr(huggingface_hub, "hf_hub_download", file)
    patch.setattr(datasets, "load_dataset", rows)
    texts = world.folder / "x.csv"
    try:
        load("org/model", revision=commit, device="cpu")
        build(ModelConfig(name="org/model", revision=commit, pooling="mean"))
        quietly(lambda: list(read_rows("org/rows", revision=commit, split="train")))
        for words in (
            ("encode", "org/model", "--input", texts, "--output", world.folder / "v.npy", "--revision", commit),
            ("export", "org/model", world.folder / "st", "--revision", commit),
            ("eval", "org/model", "--suite", "builtin-sts", "--revision", commit),
        ):  # fmt: skip
            ended = command(*words)
            assert ended.code == 0, ended.err[-500:]
        from embedkit.data.sources.sources import find_parts

        find_parts("org/rows", file="x.csv", revision=commit)
    finally:
        patch.undo()
    assert len(asked) >= 7 and all(settings["revision"] == commit for _, settings in asked), asked
    for name, settings in asked:
        if name == "org/model":
            left_out = {f"*{suffix}" for suffix in (".py", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")}
            assert left_out <= set(settings["ignore_patterns"]), settings
    shutil.rmtree(source)
    return Outcome(f"{len(asked)} downloads, each at the commit that was given", len(asked), "pinned")
