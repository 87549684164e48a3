"""From files to files: what is read and written, what trains, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.config.recipe_io import load_recipe
from embedkit.data import open_training, read_rows
from embedkit.errors import DataError, UserError
from embedkit.factory import build
from embedkit.methods import methods

ANCHORS = ["how do I pay?", "where are you?", "when do you open?", "who cooks?", "is there a car?"]
POSITIVES = ["pay by card", "we are in town", "we open at nine", "the chef cooks", "the car is red"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model from random weights."""
    folder = tmp_path_factory.mktemp("models") / "small"
    build(load_recipe("quickstart").model, 0).save(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with pairs.csv, corpus.jsonl and their vectors."""
    monkeypatch.chdir(tmp_path)
    lines = [f"{anchor},{positive},d{i}" for i, (anchor, positive) in enumerate(zip(ANCHORS, POSITIVES, strict=True))]
    Path("pairs.csv").write_text("\n".join(["question,answer,positive_id", *lines]) + "\n")
    corpus = [{"_id": f"d{i}", "text": text} for i, text in enumerate([*POSITIVES, "a dog", "two cats", "rain"])]
    Path("corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    draw = np.random.default_rng(0)
    np.save("anchors.npy", draw.standard_normal((5, 8)).astype(np.float32))
    np.save("corpus.npy", draw.standard_normal((8, 8)).astype(np.float32))
    np.save("positives.npy", np.load("corpus.npy")[:5])
    return tmp_path


VECTORS = ["--corpus", "corpus.jsonl", "--anchor-vectors", "anchors.npy", "--corpus-vectors", "corpus.npy"]


@pytest.fixture
def faq(here: Path) -> str:
    """A file with 150 pairs."""
    lines = [f"{row['anchor']},{row['positive']}" for row in read_rows("builtin:pairs-train", limit=150)]
    Path("faq.csv").write_text("\n".join(["anchor,positive", *lines]) + "\n")
    return "faq.csv"


TRAIN = ["max_steps=2", "batch_size=8", "train.holdout=0", "--output", "run"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("form", [[], ["--as-list"], ["--one-per-row"], ["--output-scores"]], ids=" ".join)
def test_the_output_trains_as_it_is(faq: str, model: Path, name: str, form: list[str]) -> None:
    assert main(["mine", faq, name, "--model", str(model), "--range-min", "5", *form]) == 0
    count = 450 if form == ["--one-per-row"] else 150
    assert len(list(read_rows(name))) == count
    extra = ["objective=margin-mse"] if form == ["--output-scores"] else []
    assert main(["train", "pairs", name, f"model={model}", *extra, *TRAIN]) == 0
    rows = open_training(load_recipe("pairs", [name]).data, methods["pairs"]().contract, batch_size=8, seed=0)
    per_row = 1 if form == ["--one-per-row"] else 3
    assert rows.summary()["hard_negatives"] == {"min": per_row, "max": per_row}


def test_rows_of_python_are_those_of_the_file_and_train(faq: str, model: Path) -> None:
    result = embedkit.mine(faq, embedkit.load(model), output="a.jsonl")
    assert result.rows == list(read_rows("a.jsonl")) == result.to_dataset().to_list()
    assert main(["mine", faq, "b.jsonl", "-m", str(model)]) == 0
    assert Path("a.jsonl").read_bytes() == Path("b.jsonl").read_bytes()
    trained = embedkit.train("pairs", data=result.to_dataset(), output="run", model__name=str(model),
                             train__max_steps=1, train__batch_size=8, train__holdout=0)  # fmt: skip
    assert trained.steps == 1


def test_rows_without_enough_negatives_are_kept_or_dropped_and_train(faq: str, model: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((150, 8))
    np.save("v.npy", vectors)
    words = ["mine", faq, "out.jsonl", "--anchor-vectors", "v.npy", "--corpus-vectors", "v.npy", "--range-max", "9",
             "--max-score", "0.6", "--overwrite", "--json", "report.json"]  # fmt: skip
    assert main(words) == 0
    report = json.loads(Path("report.json").read_text())
    rows = list(read_rows("out.jsonl"))
    lacking = [row for row in rows if row["negative_3"] is None]
    assert len(rows) == 150 and 0 < len(lacking) == report["too_few"] < 150
    assert 0 < sum(row["negative_1"] is None for row in rows) == report["without"]
    assert main(["train", "pairs", "out.jsonl", f"model={model}", *TRAIN]) == 0
    assert main([*words, "--too-few", "drop"]) == 0
    rest = list(read_rows("out.jsonl"))
    assert rest == [row for row in rows if row["negative_3"] is not None]
    report = json.loads(Path("report.json").read_text())
    assert report["dropped"] == len(lacking) and report["rows"] == len(rest) and report["negatives"] == 3 * len(rest)
    assert sum(report["histogram"]["negatives"]) == report["negatives"]


def test_the_report_can_be_read(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine", "pairs.csv", "out.jsonl", *VECTORS, "--relative-margin", "0.05"]) == 0
    text = capsys.readouterr().out
    for words in ("5 pairs, 5 anchors, 8 candidates", "relative margin left out", "likely false negatives",
                  "positives, mean", "positive_id holds the ids", "pairs.csv: question is the anchor",
                  "corpus.jsonl: text holds the texts, _id their ids ("):  # fmt: skip
        assert words in text
    assert text.count("anchor    ") == 3 and "#" in text


def test_prompts_of_the_model_go_by_role(here: Path) -> None:
    asked: list[tuple[str, int]] = []

    class Prompted:
        prompts = {"query": "q: ", "document": "d: "}

        def encode(self, texts: list[str], prompt: str = "") -> np.ndarray:
            asked.append((prompt, len(texts)))
            return np.array([[len(text), text.count("e"), text.count("o") + 1.0] for text in texts])

    embedkit.mine("pairs.csv", Prompted(), corpus="corpus.jsonl")
    assert asked == [("q: ", 5), ("d: ", 8)]  # a positive that the corpus holds is not encoded again
    asked.clear()
    embedkit.mine("pairs.csv", Prompted(), corpus=["a dog", "two cats", "rain"], query_prompt="ask: ", corpus_prompt="")
    assert asked == [("ask: ", 5), ("", 3), ("", 5)]


def test_positives_outside_of_the_corpus_have_vectors_of_their_own(here: Path) -> None:
    corpus, vectors = ["a dog", "two cats", "rain"], np.load("corpus.npy")
    outside = embedkit.mine("pairs.csv", corpus=corpus, anchor_vectors="anchors.npy", corpus_vectors=vectors[5:],
                            positive_vectors="positives.npy", relative_margin=0.05)  # fmt: skip
    inside = embedkit.mine("pairs.csv", corpus=[*POSITIVES, *corpus], anchor_vectors="anchors.npy",
                           corpus_vectors=vectors, relative_margin=0.05)  # fmt: skip
    assert outside.report.means["positives"] == inside.report.means["positives"]


@pytest.mark.parametrize("flaw", [
    (["--num-negatives", "9"], "corpus.jsonl: --num-negatives is 9, and there are 8 different candidates; lower it"),
    (["--range-min", "8"], "--range-min is 8, and there are 8"),
    (["--range-max", "30"], "--range-max is 30, and there are 8"),
    (["--range-min", "7"], "no anchor has a candidate at rank 7"),
    (["--max-score", "-0.99"], "no negatives are left of 35 candidates (--max-score -0.99 left out 35); loosen"),
    (["--absolute-margin", "0.7", "--too-few", "drop"], "no anchor has enough negatives of 35 candidates"),
    (["--sampling", "best"], "sampling: 'best' is no choice; known: random, temperature, top"),
    (["--sampling", "temperature"], "give sampling temperature and a temperature together"),
    (["--temperature", "0.1"], "top reads none"),
    (["--seed", "3"], "seed: sampling top draws nothing"),
    (["--min-score", "0.5", "--max-score", "0.1"], "--min-score is above --max-score"),
    (["--range-min", "2", "--range-max", "4"], "ranks 2 to 4 hold fewer than 3 negatives"),
    (["--one-per-row", "--as-list"], "give one of them"),
    (["--max-score", "nan"], "--max-score: nan is no number"),
    (["--query-prompt", "q: "], "--query-prompt: it is for a model"),
    (["--dtype", "bf16"], "--dtype is for a model, and none is given"),
    (["--limit", "2"], "vectors belong to all rows of the pairs"),
    (["--columns", "question"], "write it like --columns '{question: anchor}'"),
    (["--columns", "{question: anchor}"], "no column for role 'positive'"),
    (["--id-column", "nope"], "pairs.csv:2: no column 'nope' for ids"),
    (["--corpus-id-column", "nope"], "corpus.jsonl:1: no column 'nope' for ids"),
    (["--id-column", "answer"], "none of the 5 ids in column 'answer' is in corpus.jsonl: 'pay by card' here, 'd0'"),
    (["--corpus-column", "nope"], "corpus.jsonl:1: no column 'nope'"),
    (["--corpus-vectors", "anchors.npy"], "anchors.npy: 5 vectors for 8 rows of corpus.jsonl; row i"),
    (["--anchor-vectors", "corpus.npy"], "corpus.npy: 8 vectors for 5 rows of pairs.csv"),
    (["--anchor-vectors", "narrow.npy"], "8 numbers a vector, and 3 in narrow.npy; encode both with one model"),
    (["--anchor-vectors", "nan.npy"], "nan.npy: row 4: the vector has NaN or infinite values; encode this row again"),
    (["--anchor-vectors", "whole.npy"], "whole.npy: it holds int64 of the shape (5, 8)"),
    (["--anchor-vectors", "none.npy"], "none.npy: no such file"),
    (["--anchor-vectors", "pairs.csv"], "pairs.csv: is no .npy file of vectors"),
    (["--positive-vectors", "corpus.npy"], "8 vectors for 5 pairs of pairs.csv"),
    (["--corpus", "empty.txt"], "empty.txt"),
    (["--corpus", "blank.jsonl"], "blank.jsonl:2 column 'text': the text is only white space"),
    (["--corpus", "two.csv"], "two.csv:2: which of the columns 'x', 'y' holds the texts?; name it: --corpus-column"),
    (["--corpus", "few.jsonl", "--corpus-vectors", "few.npy"],
     "pairs.csv:2: the corpus does not hold the positive of this pair, and of 4 more pairs; add it"),
], ids=lambda flaw: " ".join(flaw[0]))  # fmt: skip
def test_mistakes_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], flaw: tuple[list[str], str]) -> None:
    anchors = np.load("anchors.npy")
    np.save("narrow.npy", anchors[:, :3])
    np.save("whole.npy", np.ones((5, 8), np.int64))
    anchors[3, 2] = np.nan
    np.save("nan.npy", anchors)
    Path("empty.txt").write_text("")
    Path("blank.jsonl").write_text('{"text": "a dog"}\n{"text": " "}\n')
    Path("two.csv").write_text("x,y\n1,2\n")
    Path("few.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ("a dog", "rain", "snow", "sun")))
    np.save("few.npy", np.ones((4, 8), np.float32))
    words, expected = flaw
    base = [*VECTORS]
    for option in words:
        if option.startswith("--") and option in base:
            at = base.index(option)
            base[at : at + 2] = []
    code = main(["mine", "pairs.csv", "out.jsonl", *base, *words])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and expected in line, line
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize(("rows", "expected"), [
    ("anchor,positive\na,b\nc,\n", "bad.csv:3"), ("anchor,positive\na,b\n,d\n", "bad.csv:3"),
    ("anchor,positive\n", "bad.csv"),
])  # fmt: skip
def test_anchors_without_positives_are_named(
    here: Path, capsys: pytest.CaptureFixture[str], rows: str, expected: str
) -> None:
    Path("bad.csv").write_text(rows)
    assert main(["mine", "bad.csv", "out.jsonl", "--model", "nowhere"]) == 2
    line = capsys.readouterr().err.strip()
    assert expected in line and "data." not in line


def test_an_output_is_replaced_only_when_asked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.jsonl").write_text("mine\n")
    assert main(["mine", "pairs.csv", "out.jsonl", *VECTORS]) == 2
    assert "--overwrite" in capsys.readouterr().err and Path("out.jsonl").read_text() == "mine\n"
    assert main(["mine", "pairs.csv", "out.jsonl", *VECTORS, "--overwrite"]) == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 5
    for name, words in (("out.csv", "use .jsonl or .parquet"), ("nowhere/out.jsonl", "create it")):
        assert main(["mine", "pairs.csv", name, *VECTORS]) == 2
        assert words in capsys.readouterr().err
    assert not [path.name for path in here.iterdir() if path.name.startswith(".")]


def test_what_has_no_effect_is_refused() -> None:
    rows: list[dict[str, Any]] = [{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "d"}]
    vectors = np.eye(2)
    both = {"anchor_vectors": vectors, "corpus_vectors": vectors}
    for words, expected in (
        ({"num_negativs": 1}, "did you mean 'num_negatives'"), ({"model": object()}, "model: all vectors are given"),
        ({"corpus_column": "text"}, "there is no corpus"), ({"positive_vectors": vectors}, "give corpus_vectors"),
        ({"margin": 0.1, "absolute_margin": 0.1}, "one setting"), ({"anchor_vectors": None}, "give a model"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=expected):
            embedkit.mine(rows, **{**both, **words})
    with pytest.raises(DataError, match="num_negatives is 3, and there are 2"):
        embedkit.mine(rows, **both)
    assert embedkit.mine(rows, **both, num_negatives=1, margin=0.0, sampling_strategy="random").report.negatives == 2
