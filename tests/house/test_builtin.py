"""Built-in data: the same rows everywhere, scores that a second reading of the sentences confirms, honest hold-outs."""

from __future__ import annotations

import hashlib
import json
from functools import cache

import pytest

from embedkit.data.builtin import sentences as builtin
from embedkit.data.builtin.words import FILLERS, SLOTS
from embedkit.errors import DataError

DIGESTS = {
    "pairs-train": "879810fe142abe19",
    "triplets-train": "ebf341395b7f3996",
    "sentences": "92efecd9f7ab05c4",
    "grounded": "5ec9062b0bdf0dbb",
    "inference-train": "caf3f77313c72056",
    "rated-train": "c5d323979064035c",
    "documents": "6edf41942c38998f",
    "vectors-train": "9b36d648d3f974be",
    "places-train": "599b3bb63c6a4e4a",
    "series-train": "c8000e20eeae2979",
    "modalities-train": "27f9170de9de76d6",
    "graded-train": "8de5cdea5e72e686",
    "graded-dev": "39a69be86ad1ae98",
    "graded-test": "711c4d806c0239b1",
    "shapes-train": "5f0a4f7578507bda",
    "shapes-dev": "b4a1f3cc252015cc",
    "shapes-test": "90d1e5b890c22273",
    "scenes-train": "b1fa976ee13d7f01",
}


KNOWN = sorted(
    (
        (text, slot, concept, number)
        for slot, concepts in SLOTS.items()
        for concept, wordings in enumerate(concepts)
        for number, wording in enumerate(wordings)
        for text in wording.split("|")
    ),
    key=lambda entry: -len(entry[0]),
)


@cache
def parse(sentence: str) -> dict[str, tuple[int, int]]:
    """Slot -> (concept, wording), found by taking the longest wordings out of the sentence first."""
    rest, found = f" {sentence} ", {}
    for filler in FILLERS:
        if rest.startswith(f" {filler} "):
            rest = rest.removeprefix(f" {filler}")
    for text, slot, concept, number in KNOWN:
        if slot not in found and f" {text} " in rest:
            found[slot] = (concept, number)
            rest = rest.replace(f" {text} ", " | ", 1)
    assert set(found) == set(SLOTS), (sentence, found, rest)
    return found


def agreement(one: str, two: str) -> int:
    a, b = parse(one), parse(two)
    return sum(a[slot][0] == b[slot][0] for slot in SLOTS)


def combination(sentence: str) -> tuple[int, int, int]:
    found = parse(sentence)
    return found["actor"][0], found["action"][0], found["object"][0]


def gaps(one: str, two: str) -> list[int]:
    """How far apart the wordings of shared concepts are."""
    a, b = parse(one), parse(two)
    return [abs(a[slot][1] - b[slot][1]) for slot in SLOTS if a[slot][0] == b[slot][0]]


@pytest.mark.parametrize("name", builtin.names())
def test_rows_are_the_same_on_every_machine(name: str) -> None:
    rows = list(builtin.rows(name))
    assert len(rows) == builtin.size(name)
    assert hashlib.sha256(json.dumps(rows, default=bytes.hex).encode()).hexdigest()[:16] == DIGESTS[name]


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_scores_count_the_slots_that_agree(split: str) -> None:
    rows = list(builtin.rows(f"graded-{split}"))[:500]
    assert {row["score"] for row in rows} == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
    for row in rows:
        assert agreement(row["sentence1"], row["sentence2"]) == row["score"]


def test_positives_say_the_same_and_negatives_nearly() -> None:
    for row in list(builtin.rows("triplets-train"))[:500]:
        assert agreement(row["anchor"], row["positive"]) == 5
        (negative,) = row["negatives"]
        assert agreement(row["anchor"], negative) in (3, 4)


def test_ratings_are_the_shares_of_slots_that_agree() -> None:
    rows = list(builtin.rows("rated-train"))[:300]
    for row in rows:
        found = [agreement(row["anchor"], text) / 5 for text in (row["positive"], *row["negatives"])]
        assert found == row["scores"] and found[0] == row["score"]
        assert found[1:] == [0.6, 0.4, 0.2]
    assert {row["score"] for row in rows} == {0.8, 1.0}


def test_combinations_are_held_out() -> None:
    train = {combination(row["anchor"]) for row in builtin.rows("pairs-train")}
    dev = {combination(row[key]) for row in builtin.rows("graded-dev") for key in ("sentence1", "sentence2")}
    test = {combination(row[key]) for row in builtin.rows("graded-test") for key in ("sentence1", "sentence2")}
    assert len(train) > 4000 and not train & dev and not train & test and not dev & test


def test_training_shows_only_neighbouring_wordings() -> None:
    train = [gap for row in list(builtin.rows("pairs-train"))[:2000] for gap in gaps(row["anchor"], row["positive"])]
    test = [gap for row in builtin.rows("graded-test") for gap in gaps(row["sentence1"], row["sentence2"])]
    assert set(train) == {0, 1}
    assert {0, 1, 2, 3} == set(test)


def test_common_words_tell_little() -> None:
    """A score must come from learning: the share of equal words hardly orders the test pairs."""
    from scipy.stats import spearmanr

    rows = list(builtin.rows("graded-test"))
    words = [(set(row["sentence1"].split()), set(row["sentence2"].split())) for row in rows]
    overlap = [len(a & b) / len(a | b) for a, b in words]
    assert spearmanr(overlap, [row["score"] for row in rows]).statistic < 0.2


def test_tokenizer_knows_every_word_and_spells_the_others() -> None:
    tokenizer = builtin.tokenizer()
    for row in builtin.rows("graded-test"):
        words = row["sentence1"].split()
        assert tokenizer.tokenize(row["sentence1"]) == words
    assert tokenizer.tokenize("Zebra") == ["z", "##e", "##b", "##r", "##a"]
    assert tokenizer("the chef").input_ids == [
        tokenizer.cls_token_id, *tokenizer.convert_tokens_to_ids(["the", "chef"]), tokenizer.sep_token_id,
    ]  # fmt: skip
    assert tokenizer.pad_token_id == 0


def test_examples_are_a_pair_and_a_stranger() -> None:
    first, second, third = builtin.examples()
    assert agreement(first, second) == 5 and agreement(first, third) == 1


def test_unknown_name_is_refused_at_once() -> None:
    with pytest.raises(DataError, match="pairs-train"):
        builtin.rows("pair-train")
