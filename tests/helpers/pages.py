"""Blocks of code in pages of the documentation, and a folder of small files and models in which they run."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from typer.main import get_command

from embedkit.cli.app import app, main
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import EmbedkitError

_BLOCK = re.compile(r"(?:^<!-- (not run|fails): (.+?) -->\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml|csv|jsonl|txt))(?::.*)?\n")


@dataclass(frozen=True)
class Block:
    """A fenced block, and the comment above it that says what a test does with it.

    Unmarked blocks run. ``<!-- not run: REASON -->``: parsed only. ``<!-- fails: WORDS -->``: its last command ends
    with exit code 2 and a message that holds the words. A block that begins with ``# NAME.py`` or ``# NAME.yaml: ...``
    is that file, for the blocks below it.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str
    words: str

    @property
    def file(self) -> str | None:
        """Name of the file that the block shows."""
        found = _FILE.match(self.text)
        return found[1] if found and self.language in ("python", "yaml") else None

    @property
    def commands(self) -> list[str]:
        """Commands of a shell block, one a string."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip() and line[0] != "#"]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page.name, text.count("\n", 0, found.start()) + 1, found[3], found[4], found[1] or "", found[2] or "")
        for found in _BLOCK.finditer(text)
    ]


def parse(block: Block) -> None:
    """Whether the commands, settings and Python of a block could be meant: names and options exist."""
    if block.language == "python":
        compile(block.text, block.page, "exec")
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    elif block.language == "bash":
        for line in block.commands:
            found = re.match(r"(?:embedkit|(?:torchrun|accelerate launch) .*-m embedkit) (.*)", line)
            if found:
                accepted(shlex.split(found[1], comments=True))


def accepted(words: list[str]) -> None:
    """Have typer parse a command of embedkit, and the recipe read its settings where it is a shipped one."""
    command, *rest = words
    group: Any = get_command(app)
    assert command in group.commands, command
    context = group.commands[command].make_context(f"embedkit {command}", rest)
    if command in ("train", "plan", "validate") and not rest[0].endswith(".yaml"):
        load_recipe(context.params["recipe"], context.params["overrides"] or [])


class Reader:
    """Someone who types what a page says, block after block, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__page__"}

    def follow(self, block: Block) -> None:
        """Run one block; an assertion fails with what was printed."""
        if block.file is not None:
            (self.folder / block.file).write_text(block.text, encoding="utf-8")
        if block.mark == "not run":
            parse(block)
        elif block.language == "yaml":
            self._settings(block)
        elif block.language == "python" and block.file is None:
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), self.names)
        elif block.language == "bash":
            *before, last = block.commands
            for line in before:
                self._run(line, 0, "")
            self._run(last, 2 if block.mark == "fails" else 0, block.words)

    def _run(self, line: str, code: int, words: str) -> None:
        if line.startswith("embedkit "):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                ended = main(shlex.split(line, comments=True)[1:])
            printed = out.getvalue() + err.getvalue()
        else:
            bin_folder = Path(sys.executable).parent
            environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
            line = re.sub(r"\bembedkit ", f"{sys.executable} -m embedkit ", line)
            shell = ["bash", "-c", line]
            done = subprocess.run(shell, cwd=self.folder, env=environment, capture_output=True, text=True)
            ended, printed = done.returncode, done.stdout + done.stderr
        assert ended == code, f"{line}: exit code {ended}\n{printed[-2000:]}"
        assert words in printed, f"{line}: {words!r} is not in\n{printed[-2000:]}"

    def _settings(self, block: Block) -> None:
        """A recipe is read; settings without a name are laid over the first recipe that takes them."""
        contents = yaml.safe_load(block.text)
        if isinstance(contents, list) or "tasks" in contents:
            return
        if "extends" in contents:
            file = self.folder / (block.file or "own.yaml")
            file.write_text(block.text, encoding="utf-8")
            load_recipe(file)
            return
        refusals = []
        for name in ("pairs", "simcse-unsup", "clip-small", "simclr", "classify", "feature-pairs"):
            try:
                file = self.folder / f"own-{name}.yaml"
                file.write_text(f"extends: {name}\nname: own\n{block.text}", encoding="utf-8")
                load_recipe(file)
                return
            except EmbedkitError as error:
                refusals.append(f"{name}: {error}")
        raise AssertionError(f"{block.page}:{block.line}: no recipe takes it\n" + "\n".join(refusals))


def hub(folder: Path) -> Iterator[str]:
    """Write small random models into `folder` as the hub's cache has them; yields their ids."""
    from embedkit.factory import build
    from tests.helpers.architectures import encoder_folder

    bert = {
        "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 32, "max_position_embeddings": 512,
    }  # fmt: skip
    small = build(
        load_recipe("quickstart", {"model.config": bert, "model.max_length": 128, "model.dropout": 0.1}).model, 0
    )
    with torch.no_grad():  # vectors of texts differ by their words, as those of a trained model do
        next(p for name, p in small.named_parameters() if name.endswith("word_embeddings.weight")).mul_(50)
    dual = build(load_recipe("clip-small").model, 0)
    for name, model in (
        ("all-MiniLM-L6-v2", small), ("sentence-transformers/all-MiniLM-L6-v2", small), ("bert-base-uncased", small),
        ("intfloat/multilingual-e5-small", small), ("openai/clip-vit-base-patch32", dual), ("Qwen/Qwen3-0.6B", None),
    ):  # fmt: skip
        cached = folder / f"models--{name.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("0" * 40)
        snapshot = cached / "snapshots" / ("0" * 40)
        encoder_folder("qwen3", snapshot) if model is None else model.save(snapshot)
        yield name


def desk(folder: Path) -> None:
    """Write the files that the pages speak of: 60 questions with answers, sentences, photos with captions."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    things = ["order", "card", "refund", "parcel", "invoice", "password"]
    pairs = [(things[i % 6], things[(i + 1) % 6]) for i in range(60)]
    rows = [f"How do I change the {a} number {i}?,Open page {i} of the {b}" for i, (a, b) in enumerate(pairs)]
    (folder / "faq.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")
    (folder / "sentences.txt").write_text("\n".join(row.partition(",")[0] for row in rows) + "\n")
    (folder / "photos").mkdir()
    captions = ["image,caption"]
    for number in range(60):
        color = (number * 4, 255 - number * 4, number * 37 % 255)
        Image.new("RGB", (64, 48), color).save(folder / "photos" / f"{number:03}.jpg")
        captions.append(f"{number:03}.jpg,a picture of colour {number} by {things[number % 6]}")
    (folder / "photos" / "captions.csv").write_text("\n".join(captions) + "\n")
