"""Documents: every form gives the same sentences in order, and batches of consecutive ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkit.config.recipe import DataConfig
from embedkit.data import TrainingRows, open_training
from embedkit.data.datasets.row_table import facts_of, table_of
from embedkit.data.datasets.samplers import Request, contiguous
from embedkit.data.schema.sentences import split_sentences
from embedkit.errors import DataError, RecipeError
from tests.data.helpers import Roles, opened

Write = Callable[[str, "str | bytes"], str]

STORIES = [
    ["One came.", "Two went.", "Three stayed."],
    ["The end."],
    ["It rains.", "It pours.", "It stops.", "Sun."],
]
SENTENCES = "anchor document_id position"


def forms(write: Write) -> dict[str, dict[str, Any]]:
    """The stories as every form of file that is read."""
    rows = [{"text": s, "doc_id": f"d{i}", "position": k} for i, story in enumerate(STORIES)
            for k, s in enumerate(story)]  # fmt: skip
    texts = [" ".join(story) for story in STORIES]
    return {
        "lists": {"path": write("lists.jsonl", "\n".join(json.dumps({"sentences": s}) for s in STORIES))},
        "cells": {"path": write("cells.csv", "sentences\n" + "\n".join(
            '"' + json.dumps(s).replace('"', '""') + '"' for s in STORIES) + "\n")},
        "blank lines": {"path": write("stories.txt", "\n\n\n".join("\n".join(s) for s in STORIES) + "\n\n"),
                        "format": "documents"},
        "texts": {"path": write("texts.txt", "\n".join(texts) + "\n"), "split_sentences": True},
        "column": {"path": write("texts.jsonl", "\n".join(json.dumps({"body": t}) for t in texts)),
                   "columns": {"body": "sentences"}, "split_sentences": True},
        "books": {"path": write("book-0.txt", texts[0].replace(" ", "\n", 1)).replace("-0", "-*"), "format": "book",
                  "split_sentences": True},
        "rows": {"path": write("rows.jsonl", "\n".join(json.dumps(r) for r in rows))},
        "rows without places": {
            "path": write("plain.jsonl", "\n".join(json.dumps({k: r[k] for k in ("text", "doc_id")}) for r in rows))},
    }  # fmt: skip


NAMES = ["lists", "cells", "blank lines", "texts", "column", "books", "rows", "rows without places"]


def sources(write: Write, name: str) -> dict[str, Any]:
    source = forms(write)[name]
    if name == "books":
        for number, story in enumerate(STORIES[1:], 1):
            write(f"book-{number}.txt", "\n\n".join(story))
    return source


def by_document(rows: TrainingRows, epoch: int = 0) -> list[list[str]]:
    """The sentences of each document by position, documents sorted."""
    found: dict[str, dict[int, str]] = {}
    for batch in rows.batches(epoch):
        for row in batch.rows:
            found.setdefault(row["document_id"], {})[row["position"]] = row["anchor"]
    return sorted([texts[place] for place in sorted(texts)] for texts in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_form_gives_a_row_a_sentence(write: Write, name: str) -> None:
    rows = opened([sources(write, name)], SENTENCES, batch_size=3, drop_last=False, sampler="contiguous")
    assert rows.num_rows == 8
    assert by_document(rows) == sorted(STORIES)


@pytest.mark.parametrize("name", NAMES)
def test_every_form_gives_a_row_a_document(write: Write, name: str) -> None:
    rows = opened([sources(write, name)], "sentences", batch_size=3)
    assert sorted(row["sentences"] for batch in rows.batches(0) for row in batch.rows) == sorted(STORIES)


def test_how_documents_are_read_is_printed(write: Write) -> None:
    found = forms(write)
    for name, form, words in (
        ("lists", SENTENCES, "each list is a document"),
        ("rows", "sentences", "rows of one document_id are a document"),
        ("texts", "sentences", "cut into sentences by embedkit's own rules"),
    ):  # fmt: skip
        assert any(words in note for note in opened([found[name]], form, batch_size=1).guesses), name


def test_rows_of_a_document_are_sorted_by_position(write: Write) -> None:
    lines = [{"text": f"s{k}", "doc_id": 7, "position": k} for k in (2, 0, 1)]
    path = write("rows.jsonl", "\n".join(map(json.dumps, lines)))
    assert [row["sentences"] for batch in opened([{"path": path}], "sentences", batch_size=1).batches(0)
            for row in batch.rows] == [["s0", "s1", "s2"]]  # fmt: skip
    [batch] = opened([{"path": path}], SENTENCES, batch_size=3, sampler="contiguous").batches(0)
    assert [row["anchor"] for row in batch.rows] == ["s0", "s1", "s2"]


def test_equal_ids_of_two_sources_are_two_documents(write: Write) -> None:
    line = json.dumps({"text": "one", "doc_id": 1, "position": 0})
    files = [{"path": write(f"{name}.jsonl", line)} for name in "ab"]
    [batch] = opened(files, SENTENCES, batch_size=2).batches(0)
    assert len({row["document_id"] for row in batch.rows}) == 2


def test_documents_that_cannot_be_used_are_refused(write: Write) -> None:
    scattered = [{"text": "a", "doc_id": 1}, {"text": "b", "doc_id": 2}, {"text": "c", "doc_id": 1}]
    path = write("rows.jsonl", "\n".join(map(json.dumps, scattered)))
    with pytest.raises(DataError, match=r"rows\.jsonl:3: the rows of a document do not lie together; sort the rows"):
        opened([{"path": path}], "sentences", batch_size=1)
    rows = opened([{"path": path}], "sentences", batch_size=1, on_bad_row="skip")
    assert (rows.num_rows, rows.summary()["dropped"]) == (2, {"scattered document": 1})
    config = DataConfig.model_validate({"train": [{"path": forms(write)["lists"]["path"]}]})
    least = Roles(frozenset({"sentences"}), limits={"sentences": (3, 1e9)})
    with pytest.raises(DataError, match=r"lists\.jsonl:2: the document has 1 sentence, the method needs 3 or more"):
        open_training(config, least, batch_size=1, seed=1)
    config = DataConfig.model_validate({"train": [{"path": forms(write)["rows"]["path"]}], "on_bad_row": "skip"})
    rows = open_training(config, least, batch_size=1, seed=1)
    assert rows.num_rows == 2
    assert rows.summary()["dropped"] == {"short document": 1}
    with pytest.raises(DataError, match="'split_sentences: true' where a cell is a whole text"):
        opened([{"path": write("t.txt", "a text\n")}], "sentences")


def test_settings_without_effect_are_refused(write: Write) -> None:
    found = forms(write)
    with pytest.raises(DataError, match="'split_sentences' has no effect: nothing reads a column of documents"):
        opened([{**found["texts"]}], "anchor")
    with pytest.raises(DataError, match="'split_sentences' has no effect: column 'sentences' holds lists already"):
        opened([{**found["lists"], "split_sentences": True}], "sentences")
    both = {"path": write("both.jsonl", json.dumps({"sentences": ["a", "b"], "name": "x"}))}
    columns = {"sentences": "sentences", "name": "anchor"}
    with pytest.raises(DataError, match="column 'name' is mapped to anchor, which the documents of column 'sentences'"):
        opened([{**both, "columns": columns}], SENTENCES)


def test_orders_that_contiguous_cannot_keep_are_refused(write: Write) -> None:
    path = forms(write)["lists"]["path"]
    with pytest.raises(RecipeError, match="keeps documents whole, which mixing 'weighted' does not"):
        opened([{"path": path, "weight": 1.0}], SENTENCES, sampler="contiguous", mixing="weighted")
    with pytest.raises(RecipeError, match="batches_from: one-source"):
        opened([{"path": path, "stream": True}] * 2, SENTENCES, sampler="contiguous")
    with pytest.raises(DataError, match="the sampler contiguous needs sentences of documents"):
        opened([{"path": path}], "sentences", sampler="contiguous")
    with pytest.raises(DataError, match="no column for role 'document_id'"):
        opened([{"path": write("t.txt", "a text\n")}], SENTENCES, sampler="contiguous")


def test_a_method_that_reads_no_places_may_have_the_sampler(write: Write) -> None:
    rows = opened([forms(write)["lists"]], "anchor", batch_size=8, sampler="contiguous")
    [batch] = rows.batches(0)
    texts = [row["anchor"] for row in batch.rows]
    assert all(texts[texts.index(story[0]) :][: len(story)] == story for story in STORIES)


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def neighbours(batch: list[tuple[int, int]], lengths: list[int]) -> bool:
    """Whether each (document, place) of a batch follows the one before, or starts a document that follows another."""
    return all(
        (b == (a[0], a[1] + 1)) or (a[1] == lengths[a[0]] - 1 and b[1] == 0 and a[0] != b[0])
        for a, b in pairwise(batch)
    )


@given(SIZES, st.integers(1, 6), st.integers(0, 3))
def test_batches_hold_consecutive_sentences(lengths: list[int], size: int, epoch: int) -> None:
    places = [(d, k) for d, length in enumerate(lengths) for k in range(length)]
    random.Random(epoch).shuffle(places)
    rows = [{"anchor": "x", "document_id": f"{d}", "position": k} for d, k in places]
    order = np.random.default_rng(epoch).permutation(len(rows))
    found = contiguous(Request(order, facts_of(table_of(rows)), size, 1, (3, epoch))).batches
    assert sorted(i for batch in found for i in batch.tolist()) == list(range(len(rows)))
    assert all(neighbours([places[i] for i in batch], lengths) for batch in found)
    assert sum(len(batch) < size for batch in found) <= 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_order_is_a_function_of_seed_epoch_and_step(write: Write, stream: bool) -> None:
    stories = [{"sentences": [f"{d} {k}" for k in range(4 + d % 5)]} for d in range(30)]
    source = {"path": write("s.jsonl", "\n".join(map(json.dumps, stories))), "stream": stream}

    def rows(seed: int = 7) -> TrainingRows:
        return opened([source], SENTENCES, batch_size=10, sampler="contiguous", shuffle_buffer=60, seed=seed)

    def order(found: TrainingRows, epoch: int, **share: int) -> list[list[str]]:
        return [[row["anchor"] for row in batch.rows] for batch in found.batches(epoch, **share)]

    first = order(rows(), 0)
    assert first == order(rows(), 0)
    assert first != order(rows(), 1)
    assert first != order(rows(8), 0)
    assert first[3:] == order(rows(), 0, start_step=3)
    halves = [order(rows(), 0, rank=rank, world=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == first
    lengths = [len(story["sentences"]) for story in stories]
    for batch in first:
        places = [(int(text.split()[0]), int(text.split()[1])) for text in batch]
        joins = sum(b == (a[0], a[1] + 1) for a, b in pairwise(places))
        assert stream or neighbours(places, lengths)
        assert joins >= len(batch) // 2


def test_a_stream_gives_every_sentence_once(write: Write) -> None:
    stories = [{"sentences": [f"{d} {k}" for k in range(3 + d % 7)]} for d in range(40)]
    path = write("s.jsonl", "\n".join(map(json.dumps, stories)))
    rows = opened([{"path": path, "stream": True}], SENTENCES, batch_size=8, sampler="contiguous", shuffle_buffer=50,
                  drop_last=False)  # fmt: skip
    assert by_document(rows) == sorted(story["sentences"] for story in stories)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Dr. Lee met J. Smith at 3.15 p.m. on Monday. They left!", ["Dr. Lee met J. Smith at 3.15 p.m. on Monday.",
                                                                    "They left!"]),
        ("Why? \"Because.\" He sat. I did it. It was I. So what", ["Why?", '"Because."', "He sat.", "I did it.",
                                                                 "It was I.", "So what"]),
        ("A line\nbroken here. And\n\na paragraph", ["A line broken here.", "And", "a paragraph"]),
        ("See e.g. the U.S. Army and No. 5 (fig. 2) ... then stop. End.", [
            "See e.g. the U.S. Army and No. 5 (fig. 2) ... then stop.", "End."]),
        ("今日は。元気？はい！", ["今日は。", "元気？", "はい！"]),
        ("", []),
    ],
)  # fmt: skip
def test_sentences_of_a_text(text: str, wanted: list[str]) -> None:
    assert split_sentences(text) == wanted


@given(st.text(alphabet='aB .!?\n"', max_size=60))
def test_splitting_loses_no_letter(text: str) -> None:
    found = split_sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence == sentence.strip() != "" for sentence in found)
