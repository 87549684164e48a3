"""docs/training-data.md does what it says: its Python prints what it shows, its commands run one after another."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.config.recipe_io import load_recipe
from embedkit.data import read_rows
from embedkit.factory import build
from embedkit.mining.generation.templates import TEMPLATES
from embedkit.mining.selection.base import criteria

PAGE = (Path(__file__).parents[2] / "docs" / "training-data.md").read_text(encoding="utf-8")
ASK = """
def write(prompt):
    text = prompt.split("\\n\\n")[1]
    return "\\n".join(f"{n}. question {n} on {text}" for n in (1, 2))
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_python_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("python")
    exec(compile(block, "page", "exec"), {})
    said = re.findall(r"^# (.*)$|  # (.*)$", block, re.MULTILINE)
    expected = [first or second for first, second in said if not (first or second).startswith("stands for")]
    assert capsys.readouterr().out.splitlines() == expected and len(expected) == 2


def test_three_commands_from_documents_to_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build(load_recipe("quickstart").model, 0).save("small")
    Path("notes").mkdir()
    texts = [row["positive"] for row in read_rows("builtin:pairs-train", limit=40)]
    Path("notes/a.txt").write_text("\n".join(texts[:25]) + "\n")
    Path("notes/b.txt").write_text("\n".join(texts[25:]) + "\n")
    Path("ask.py").write_text(ASK)
    lines = blocks("bash")[0].strip().splitlines()
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line.replace("all-MiniLM-L6-v2", "small"))[1:]
        extra = ["model=small", "max_steps=2", "batch_size=8"] if words[0] == "train" else []
        assert main([*words, *extra]) == 0, line
    assert len(list(read_rows("pairs.jsonl"))) == 2 * len({text.strip() for text in texts}) or len(texts) == 40
    rows = list(read_rows("hard.jsonl"))
    assert rows and {"anchor", "positive", "negative_1", "group"} <= set(rows[0])
    assert embedkit.load("runs/notes/model").encode(["a question"]).shape[0] == 1
    label, train = (shlex.split(line)[1:] for line in blocks("bash")[1].strip().splitlines())
    swap = {"runs/first/model": "small", "model=runs/first/model": "model=small", "64": "4", "20": "3"}
    assert main([swap.get(word, word) for word in label]) == 0
    train = [re.sub("64$", "4", swap.get(word, word)) for word in train]
    assert main([*train, "max_steps=2", "train.holdout=0", "--output", "runs/stage"]) == 0


def test_the_page_names_every_template_and_criterion() -> None:
    for name in (*TEMPLATES, *criteria):
        assert f"| `{name}` |" in PAGE, name
