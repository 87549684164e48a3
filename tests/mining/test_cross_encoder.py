"""A cross-encoder's scores replace those of the search: in bounds, order and output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.errors import UserError

COUNT = 30


def table(seed: int = 4) -> tuple[list[dict[str, str]], list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Pairs, corpus, vectors of both, and the scores (anchor, text) of a cross-encoder that disagrees with them."""
    draw = np.random.default_rng(seed)
    corpus = [f"text {number}" for number in range(COUNT)]
    pairs = [{"anchor": f"anchor {a}", "positive": f"text {p}"} for a, p in ((0, 3), (1, 5), (1, 6), (2, 9), (3, 9))]
    return pairs, corpus, draw.standard_normal((5, 8)), draw.standard_normal((COUNT, 8)), draw.random((4, COUNT))


class Table:
    """Looks scores up, and counts what it was asked."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores, self.calls = scores, 0

    def predict(self, pairs: list[list[str]], **options: Any) -> np.ndarray:
        self.calls += len(pairs)
        return np.array([self.scores[int(a.split()[1]), int(b.split()[1])] for a, b in pairs], np.float32)


@pytest.mark.parametrize("settings", [
    {"absolute_margin": 0.1}, {"relative_margin": 0.3}, {"max_score": 0.5}, {"min_score": 0.3, "max_score": 0.8}, {},
], ids=str)  # fmt: skip
def test_equal_to_a_naive_statement(settings: dict[str, float]) -> None:
    pairs, corpus, queries, documents, scores = table()
    found = embedkit.mine(
        pairs, corpus=corpus, anchor_vectors=queries, corpus_vectors=documents, similarity="dot", num_negatives=2,
        range_min=1, range_max=12, as_list=True, output_scores=True, cross_encoder=Table(scores), **settings,
    )  # fmt: skip
    scores = scores.astype(np.float32).astype(float)
    firsts = {0: 0, 1: 1, 2: 3, 3: 4}
    own = {0: [3], 1: [5, 6], 2: [9], 3: [9]}
    likely = total = 0
    for row in found.rows:
        anchor, positive = int(row["anchor"].split()[1]), int(row["positive"].split()[1])
        nearest = sorted(range(COUNT), key=lambda i: -float(queries[firsts[anchor]] @ documents[i]))
        ranks = [i for i in nearest if i not in own[anchor]][1:12]
        lowest = min(scores[anchor, p] for p in own[anchor])
        fits = [
            i for i in ranks
            if scores[anchor, i] + settings.get("absolute_margin", -9) <= lowest
            and scores[anchor, i] <= lowest * (1 - settings.get("relative_margin", -99))
            and settings.get("min_score", 0) <= scores[anchor, i] <= settings.get("max_score", 1)
        ]  # fmt: skip
        fits = sorted(fits, key=lambda i: -scores[anchor, i])[:2]
        assert row["negatives"] == [f"text {i}" for i in fits]
        np.testing.assert_allclose(row["scores"], [scores[anchor, positive], *scores[anchor, fits]], atol=1e-6)
        if positive != 6:  # once an anchor
            likely += sum(scores[anchor, i] > lowest for i in ranks[:2])
            total += 2
    assert found.report.false_negatives == likely / total


def test_equal_to_sentence_transformers() -> None:
    library = pytest.importorskip("sentence_transformers.util")
    import torch
    from datasets import Dataset

    pairs, corpus, queries, documents, scores = table(6)
    names = {row["anchor"]: vector for row, vector in reversed(list(zip(pairs, queries, strict=True)))}

    class Encoder:
        device = "cpu"

        def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
            return np.array([names[text] for text in texts], np.float32)

        def encode_document(self, texts: list[str], **_: Any) -> np.ndarray:
            return np.array([documents[int(text.split()[1])] for text in texts], np.float32)

        def similarity(self, a: Any, b: Any) -> Any:
            return torch.as_tensor(a) @ torch.as_tensor(b).T

        def similarity_pairwise(self, a: Any, b: Any) -> Any:
            return (torch.as_tensor(a) * torch.as_tensor(b)).sum(1)

    class Judge(Table):
        def predict(self, pairs: list[list[str]], **options: Any) -> Any:
            return torch.from_numpy(super().predict(pairs))

    theirs = library.mine_hard_negatives(
        Dataset.from_list(pairs), Encoder(), cross_encoder=Judge(scores), corpus=corpus, num_negatives=3,
        range_max=COUNT, relative_margin=0.2, sampling_strategy="top", output_format="n-tuple", verbose=False,
        output_scores=True,
    ).to_list()  # fmt: skip
    ours = embedkit.mine(
        pairs, corpus=corpus, anchor_vectors=queries, corpus_vectors=documents, similarity="dot", num_negatives=3,
        range_max=COUNT, relative_margin=0.2, too_few="drop", output_scores=True, cross_encoder=Table(scores),
    ).rows  # fmt: skip
    assert len(theirs) >= 3
    texts = [[row[name] for name in ("anchor", "positive", "negative_1", "negative_2", "negative_3")] for row in ours]
    assert texts == [list(row.values())[:5] for row in theirs]
    np.testing.assert_allclose([r["scores"] for r in ours], [list(r.values())[5] for r in theirs], atol=1e-6)


def test_only_the_candidates_of_the_ranks_are_scored() -> None:
    pairs, corpus, queries, documents, scores = table()
    judge = Table(scores)
    embedkit.mine(pairs, corpus=corpus, anchor_vectors=queries, corpus_vectors=documents, num_negatives=2,
                  range_min=3, cross_encoder=judge)  # fmt: skip
    assert judge.calls == 4 * 20 + 5  # ten times the negatives of four anchors, and five positives


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs, corpus, queries, documents, _ = table()
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    Path("corpus.txt").write_text("\n".join(corpus) + "\n")
    np.save("a.npy", queries)
    np.save("c.npy", documents)
    Path("my.py").write_text(
        "def score(a, b):\n    return [1 / (1 + int(y.split()[1])) for y in b]\n"
        "def two(a, b):\n    return [[1.0, 2.0]] * len(a)\n"
    )
    words = ["mine", "pairs.jsonl", "out.jsonl", "--corpus", "corpus.txt", "--anchor-vectors", "a.npy",
             "--corpus-vectors", "c.npy", "--cross-encoder"]  # fmt: skip
    assert main([*words, "my.py:score", "-n", "1", "--output-scores"]) == 0
    assert "likely false negatives" in capsys.readouterr().out
    for row in map(json.loads, Path("out.jsonl").read_text().splitlines()):
        assert row["scores"][1] == pytest.approx(1 / (1 + int(row["negative_1"].split()[1])), abs=1e-6)
    for name, extra, expected in (
        ("my.py:two", [], "it has 2 outputs (without names); name one: --cross-encoder-label"),
        ("my.py:two", ["--cross-encoder-label", "7"], "it has 2 outputs, none of the number 7"),
        ("nowhere.py:score", [], "no such Python file"), ("no/such/folder.zip", [], "no such model folder"),
    ):  # fmt: skip
        assert main([*words, name, "--overwrite", *extra]) == 2
        assert expected in capsys.readouterr().err
    assert main([*words, "my.py:two", "--overwrite", "--cross-encoder-label", "1"]) == 0
    with pytest.raises(UserError, match="there is no cross-encoder"):
        embedkit.mine(pairs, anchor_vectors=queries, corpus_vectors=queries, cross_encoder_label="x", num_negatives=1)
