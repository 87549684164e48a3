"""Scores of pairs by functions, encoders and classifiers; random zeros; what trains; stops and mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.config.recipe_io import load_recipe
from embedkit.data import read_rows
from embedkit.errors import UserError
from embedkit.factory import build
from embedkit.mining.scores import api

TRAIN = ["max_steps=2", "batch_size=8", "train.holdout=0", "--output", "run"]
OWN = """
import os
def overlap(a, b):
    with open("calls.txt", "a") as file:
        file.write("".join("x" for _ in a))
    if os.path.exists("slow"):
        import time
        time.sleep(0.05)
    return [len(set(x.split()) & set(y.split())) / max(1, len(set(x.split()) | set(y.split()))) for x, y in zip(a, b)]
def nan(a, b): return [float("nan")] * len(a)
def two(a, b): return [[0.1, 0.9]] * len(a)
def short(a, b): return [1.0]
"""


def overlap(first: str, second: str) -> float:
    one, other = set(first.split()), set(second.split())
    return len(one & other) / max(1, len(one | other))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model from random weights."""
    folder = tmp_path_factory.mktemp("models") / "small"
    build(load_recipe("quickstart").model, 0).save(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [dict(row) for row in read_rows("builtin:pairs-train", limit=60)]
    Path("pairs.jsonl").write_text("".join(json.dumps({**row, "group": i % 9}) + "\n" for i, row in enumerate(rows)))
    hard = [{**row, "negatives": [rows[-1 - i]["positive"]] * (i % 3)} for i, row in enumerate(rows[:30])]
    Path("hard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in hard))
    Path("own.py").write_text(OWN)
    return tmp_path


@pytest.mark.parametrize("name", ["o.jsonl", "o.parquet"])
def test_scored_pairs_with_random_zeros_train(here: Path, model: Path, name: str) -> None:
    words = ["score", "pairs.jsonl", name, "--scorer", "own.py:overlap", "--random-zeros", "2", "--smoothing", "0.2"]
    assert main([*words, "--json", "r.json"]) == 0
    rows, originals = list(read_rows(name)), list(read_rows("pairs.jsonl"))
    for row, original in zip(rows[:60], originals, strict=True):
        assert row["anchor"] == original["anchor"] and row["positive"] == original["positive"]
        assert row["score"] == round(overlap(row["anchor"], row["positive"]) * 0.8 + 0.1, 6)
        assert str(row["group"]) == str(original["group"])
    zeros = rows[60:]
    assert {row["score"] for row in zeros} == {0.0}
    partners, groups = {}, {}
    for row in originals:
        partners.setdefault(row["anchor"], set()).add(row["positive"])
        groups.setdefault(row["anchor"], set()).add(row["group"])
    group_of: dict[str, set[int]] = {}
    for row in originals:
        group_of.setdefault(row["positive"], set()).add(row["group"])
    for row in zeros:
        assert row["positive"] not in partners[row["anchor"]] and row["positive"] != row["anchor"]
        assert group_of[row["positive"]] - groups[row["anchor"]]  # of some other group
    pairs = [(row["anchor"], row["positive"]) for row in zeros]
    assert len(set(pairs)) == len(pairs) == 2 * len(partners)
    report = json.loads(Path("r.json").read_text())
    assert (
        report["zeros"] == len(zeros)
        and report["rows"] == len(rows)
        and sum(report["histogram"]["counts"]) == report["pairs"]
    )
    assert main(["train", "scored-pairs", name, f"model={model}", *TRAIN]) == 0
    python = embedkit.score("pairs.jsonl", "own.py:overlap", random_zeros=2, smoothing=0.2)
    assert [{**row, "group": str(row.get("group"))} for row in python.rows] == [
        {**row, "group": str(row.get("group"))} for row in rows
    ]


def test_random_pairs_do_not_depend_on_other_anchors_and_can_be_checked(here: Path) -> None:
    rows = list(read_rows("pairs.jsonl"))
    one = embedkit.score(rows, overlap_of, random_zeros=3, seed=4).rows[60:]
    assert one == embedkit.score(rows, overlap_of, random_zeros=3, seed=4).rows[60:]
    assert one != embedkit.score(rows, overlap_of, random_zeros=3, seed=5).rows[60:]
    checked = embedkit.score(rows, overlap_of, random_zeros=3, seed=4, zeros_below=0.2)
    assert checked.rows[60:] == [row for row in one if overlap(row["anchor"], row["positive"]) < 0.2]
    assert checked.report.unlike == len(one) - len(checked.rows[60:]) > 0
    few = embedkit.score(
        [{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "d"}], overlap_of, random_zeros=5
    )
    assert [(row["anchor"], row["positive"]) for row in few.rows[2:]] == [("a", "d"), ("c", "b")]


def overlap_of(first: list[str], second: list[str]) -> list[float]:
    return [overlap(a, b) for a, b in zip(first, second, strict=True)]


def test_rows_with_negatives_get_lists_of_scores_and_train(here: Path, model: Path) -> None:
    assert main(["score", "hard.jsonl", "o.jsonl", "-s", "own.py:overlap"]) == 0
    rows = list(read_rows("o.jsonl"))
    assert {len(row["negatives"]) for row in rows} == {0, 1, 2}
    for row in rows:
        texts = [row["positive"], *row["negatives"]]
        assert row["scores"] == [round(overlap(row["anchor"], text), 6) for text in texts]
    full = [row for row in rows if len(row["negatives"]) == 2]
    Path("full.jsonl").write_text("".join(json.dumps(row) + "\n" for row in full))
    assert main(["train", "pairs", "full.jsonl", "objective=margin-mse", f"model={model}", *TRAIN]) == 0
    with pytest.raises(UserError, match="random_zeros: rows have negatives"):
        embedkit.score("hard.jsonl", overlap_of, random_zeros=1)


def test_an_encoder_scores_by_similarity_with_prompts_by_side(here: Path) -> None:
    asked: list[tuple[str, int]] = []

    class Prompted:
        prompts = {"query": "q: ", "document": "d: "}

        def encode(self, texts: list[str], prompt: str = "") -> np.ndarray:
            asked.append((prompt, len(texts)))
            return np.array([[len(text), text.count("e"), text.count("o") + 1.0] for text in texts])

    rows = list(read_rows("pairs.jsonl"))

    def vector(text: str) -> np.ndarray:
        return np.array([len(text), text.count("e"), text.count("o") + 1.0])

    result = embedkit.score(rows, model=Prompted(), similarity="dot")
    expected = [float(vector(row["anchor"]) @ vector(row["positive"])) for row in rows]
    assert [row["score"] for row in result.rows] == pytest.approx(expected)
    assert asked == [("q: ", len({row["anchor"] for row in rows})), ("d: ", len({row["positive"] for row in rows}))]
    cosine = embedkit.score(rows, model=Prompted(), query_prompt="", corpus_prompt="x: ").rows[0]["score"]
    a, b = vector(rows[0]["anchor"]), vector(rows[0]["positive"])
    assert cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)
    assert [prompt for prompt, _ in asked[2:]] == ["", "x: "]


def test_a_classifier_scores_as_alone(here: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    from embedkit.data.builtin import tokenizer
    from embedkit.mining.scorer import load_scorer

    words = tokenizer()
    small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=len(words), num_labels=1)
    BertForSequenceClassification(small).save_pretrained("cross")
    words.save_pretrained("cross")
    assert main(["score", "pairs.jsonl", "o.jsonl", "-s", "cross", "--device", "cpu", "--limit", "12"]) == 0
    rows = list(read_rows("o.jsonl"))
    alone = load_scorer("cross", device="cpu")
    single = [float(alone([row["anchor"]], [row["positive"]])[0]) for row in rows]
    assert len(rows) == 12 and [row["score"] for row in rows] == pytest.approx(single, abs=1e-5)


def test_a_killed_call_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "WINDOW", 7)
    embedkit.score("pairs.jsonl", "own.py:overlap", output="whole.jsonl")
    Path("calls.txt").unlink()
    Path("slow").touch()
    code = "import embedkit; from embedkit.mining.scores import api; api.WINDOW = 7; "
    code += "embedkit.score('pairs.jsonl', 'own.py:overlap', output='o.jsonl')"
    run = subprocess.Popen([sys.executable, "-c", code], env={**os.environ})
    deadline = time.monotonic() + 60
    while (not Path("calls.txt").exists() or Path("calls.txt").stat().st_size < 14) and time.monotonic() < deadline:
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not Path("o.jsonl").exists()
    Path("slow").unlink()
    before = Path("calls.txt").stat().st_size
    result = embedkit.score("pairs.jsonl", "own.py:overlap", output="o.jsonl")
    count = Path("calls.txt").stat().st_size - before
    assert result.report.reused >= 7 and count == result.report.pairs - result.report.reused
    assert Path("o.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert not list(here.glob(".*scores*"))


def test_scores_of_another_scorer_are_not_reused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedkit.score("pairs.jsonl", "own.py:overlap", output="a.jsonl")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(api, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            embedkit.score("pairs.jsonl", "own.py:overlap", output="o.jsonl")
    Path("other.py").write_text("def zero(a, b): return [0.0] * len(a)")
    result = embedkit.score("pairs.jsonl", "other.py:zero", output="o.jsonl")
    assert result.report.reused == 0 and {row["score"] for row in result.rows} == {0.0}


@pytest.mark.parametrize("flaw", [
    ([], "nothing says who scores; give a scorer"),
    (["-s", "own.py:overlap", "-m", "m"], "a scorer and a model are given"),
    (["-s", "own.py:nope"], "own.py: has no 'nope'"),
    (["-s", "own.py:nan"], "own.py:nan: gives NaN or infinity for"),
    (["-s", "own.py:two"], "it gives 2 scores a pair; choose one with label: 0, 1"),
    (["-s", "own.py:short"], "own.py:short: returned the shape (1,) for"),
    (["-s", "own.py:overlap", "--query-prompt", "x"], "--query-prompt: it is for a model, and a scorer is given"),
    (["-s", "own.py:overlap", "--similarity", "dot"], "similarity: it is for a model"),
    (["-s", "own.py:overlap", "--device", "cpu"], "device: it is for a model in a folder"),
    (["-m", "m", "--activation", "sigmoid"], "activation: it is for a scorer, and a model is given"),
    (["-s", "own.py:overlap", "--zeros-below", "0.2"], "--zeros-below: there are no random pairs"),
    (["-s", "own.py:overlap", "--smoothing", "1"], "smoothing: 1.0 is not from 0 to below 1"),
    (["-s", "own.py:overlap", "--similarity", "l2"], "similarity: 'l2' is no choice"),
    (["-s", "own.py:overlap", "--columns", "{anchor: anchor}"], "no column for role 'positive'"),
    (["-s", "own.py:overlap", "--where", "{group: 77}"], "no pairs are left"),
    (["-m", "no-such-folder/m.bin"], "no-such-folder"),
], ids=lambda flaw: " ".join(flaw[0]))  # fmt: skip
def test_mistakes_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], flaw: tuple[list[str], str]) -> None:
    code = main(["score", "pairs.jsonl", "out.jsonl", *flaw[0]])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and flaw[1] in line, line
    assert not Path("out.jsonl").exists()


def test_a_model_in_memory_without_a_file_leaves_nothing_behind(here: Path) -> None:
    plain = SimpleNamespace(encode=lambda texts: np.array([[len(text), 1.0] for text in texts]))
    embedkit.score("pairs.jsonl", model=plain, output="o.jsonl")
    assert sorted(path.name for path in here.iterdir()) == ["hard.jsonl", "o.jsonl", "own.py", "pairs.jsonl"]
