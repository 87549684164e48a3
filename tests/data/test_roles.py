"""Columns to roles, and the contract: bound by name, refused in one line when something is missing or unused."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from embedkit.data.schema.roles import ALIASES, ROLES, bind
from embedkit.errors import DataError, RecipeError, UserError
from tests.data.helpers import opened

Write = Callable[[str, "str | bytes"], str]

ALL = frozenset(ROLES)


def _first(write: Write, header: str, row: str, requires: str, accepts: str = "", **source: Any) -> dict[str, Any]:
    path = write("t.tsv", header.replace(" ", "\t") + "\n" + row + "\n")
    rows = opened([{"path": path, **source}], requires, accepts, batch_size=1)
    return next(rows.batches(0)).rows[0]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("anchor positive negative", {"anchor": "A", "positive": "B", "negatives": ["C"]}),
        ("positive anchor negative", {"anchor": "B", "positive": "A", "negatives": ["C"]}),
        ("sent0 sent1 hard_neg", {"anchor": "A", "positive": "B", "negatives": ["C"]}),
        ("sentence1 sentence2 id", {"anchor": "A", "positive": "B"}),
        ("premise entailment contradiction", {"anchor": "A", "positive": "B", "negatives": ["C"]}),
        ("query positive negative_1", {"anchor": "A", "positive": "B", "negatives": ["C"]}),
        ("negative_2 anchor negative_1", {"anchor": "B", "negatives": ["C", "A"]}),
        ("text id other", {"anchor": "A"}),
    ],
)
def test_well_known_names_are_understood_in_any_order(write: Write, header: str, expected: dict[str, Any]) -> None:
    assert _first(write, header, "A\tB\tC", "anchor", "positive negatives") == expected


def test_a_mapping_decides_alone(write: Write) -> None:
    row = _first(
        write, "anchor b c", "A\tB\tC", "anchor positive", "negatives", columns={"b": "anchor", "c": "positive"}
    )
    assert row == {"anchor": "B", "positive": "C"}


def test_every_alias_leads_to_one_role() -> None:
    names = [name for role, others in ALIASES.items() for name in (role, *others)]
    assert len(names) == len(set(names))
    for names in itertools.product(*([role, *others] for role, others in ALIASES.items() if role != "negatives")):
        bound = bind(names, None, requires=frozenset({"anchor"}), reads=ALL, where="w").columns
        assert [bound[role] for role in ALIASES if role != "negatives"] == list(names)
        break
    for role, others in ALIASES.items():
        for name in others:
            assert bind([name], None, requires=frozenset(), reads=ALL, where="w").columns == {role: name}


@pytest.mark.parametrize(
    ("header", "requires", "source", "parts"),
    [
        ("a b c", "anchor", {}, ["no column for role 'anchor'", "'a', 'b', 'c'", "{COLUMN: anchor}"]),
        ("anchor b c", "anchor positive", {}, ["no column for role 'positive'"]),
        ("query text c", "anchor", {}, ["'query' and 'text' both look like anchor", "{query: anchor}"]),
        ("a b c", "anchor", {"columns": {"aa": "anchor"}}, ["no column 'aa'", "did you mean 'a'"]),
        ("a b c", "anchor", {"columns": {"a": "ancor"}}, ["'ancor' is not a role", "did you mean 'anchor'"]),
        ("a b c", "anchor", {"columns": {"a": "anchor", "b": "anchor"}}, ["both mapped to anchor"]),
        (
            "a b c",
            "anchor",
            {"columns": {"a": "anchor", "b": "score"}},
            ["'b' is mapped to role score", "neither the method nor the sampler reads", "leave it out"],
        ),
        ("anchor b c", "anchor", {"where": {"bb": 1}}, ["'where' names no column 'bb'", "did you mean 'b'"]),
        ("anchor b c", "anchor", {"where": {"b": "X"}}, ["no rows are left", "1 left out by 'where'", "'B'"]),
        ("anchor b c", "anchor", {"explode": True}, ["'explode' needs a column with role texts"]),
    ],
)
def test_a_broken_contract_is_one_line(
    write: Write, header: str, requires: str, source: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        _first(write, header, "A\tB\tC", requires, **source)
    line = str(caught.value)
    assert "data.train[0]" in line
    assert "\n" not in line
    assert all(part in line for part in parts), line
    assert caught.value.remedy


def test_sentences_alone_are_answered_with_the_recipe_that_trains_them(write: Write) -> None:
    with pytest.raises(DataError) as caught:
        _first(write, "anchor", "A", "anchor positive")
    assert "sentences alone are trained by recipe simcse-unsup" in str(caught.value)


def test_images_with_captions_are_answered_with_the_recipe_that_trains_them(write: Write) -> None:
    with pytest.raises(DataError) as caught:
        _first(write, "image\tcaption", "a.jpg\tA cat", "anchor positive")
    assert "images with captions are trained by recipe clip-small" in str(caught.value)
    assert "{image: anchor" not in str(caught.value)


def test_two_columns_for_two_roles_are_answered_with_the_whole_mapping(write: Write) -> None:
    with pytest.raises(DataError) as caught:
        _first(write, "frage antwort", "A\tB", "anchor positive")
    assert "columns: {frage: anchor, antwort: positive}, or the other way round" in str(caught.value)
    assert _first(write, "frage antwort", "A\tB", "anchor positive", columns={"frage": "anchor", "antwort": "positive"})


def test_a_guessed_role_that_nothing_reads_is_reported(write: Write) -> None:
    path = write("t.tsv", "anchor\tscore\nA\t1\n")
    rows = opened([{"path": path}], batch_size=1)
    assert "column 'score' is not used, nothing reads role score" in rows.summary()["notes"][0]
    assert next(rows.batches(0)).rows == [{"anchor": "A"}]


def test_the_label_of_builtin_rows_goes_without_saying(write: Write) -> None:
    builtin = opened([{"path": "builtin:inference-train", "limit": 8}], "anchor positive")
    assert builtin.notes == []
    own = opened([{"path": write("t.tsv", "anchor\tpositive\tlabel\nA\tB\t1\n")}], "anchor positive", batch_size=1)
    assert "column 'label' is not used, nothing reads role label; map it to score" in own.notes[0]
    alone = opened([{"path": write("u.tsv", "anchor\tlabel\nA\t1\n")}], "anchor", batch_size=1)
    assert alone.notes[0].endswith("column 'label' is not used, nothing reads role label")
    other = opened([{"path": "builtin:triplets-train", "limit": 8}], "anchor positive")
    assert "column 'negatives' is not used" in other.notes[0]


def test_an_id_column_as_text_is_reported(write: Write) -> None:
    path = write("t.tsv", "id\tpositive\n17\tA dog\n18\tA cat\n")
    rows = opened(
        [{"path": path, "columns": {"id": "anchor", "positive": "positive"}}], "anchor positive", batch_size=1
    )
    assert "no letter in the first texts of 'id' (anchor); is it an id?" in rows.summary()["notes"][0]


def test_equal_anchor_and_positive_are_reported(write: Write) -> None:
    path = write("t.tsv", "anchor\tpositive\nA\tA\nB\tB\n")
    rows = opened([{"path": path}], "anchor positive", batch_size=1)
    assert "anchor and positive are the same text" in rows.summary()["notes"][0]
    assert rows.summary()["duplicates"] == {"anchors": 0, "positives": 0, "positive_is_anchor": 2}


def test_negatives_may_differ_in_number_per_row(write: Write) -> None:
    lines = [
        {"anchor": "a", "negatives": ["x", "y"], "negative_1": "z"},
        {"anchor": "b", "negatives": []},
        {"anchor": "c"},
        {"anchor": "d", "negatives": None, "negative_1": " "},
    ]
    path = write("t.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    rows = opened([{"path": path}], "anchor", "negatives", batch_size=4)
    found = {row["anchor"]: row["negatives"] for row in next(rows.batches(0)).rows}
    assert found == {"a": ["x", "y", "z"], "b": [], "c": [], "d": []}
    assert rows.summary()["hard_negatives"] == {"min": 0, "max": 3}
    with pytest.raises(DataError, match=r"t\.jsonl:2: the row has no negative; add one"):
        opened([{"path": path}], "anchor negatives", batch_size=4)


def test_negatives_as_json_text(write: Write) -> None:
    assert _first(write, "anchor negatives", 'A\t["B", "C"]', "anchor negatives")["negatives"] == ["B", "C"]
    with pytest.raises(DataError, match=r"t\.tsv:2 column 'negatives': expected a JSON list .* negative_1"):
        _first(write, "anchor negatives", "A\tplain text", "anchor negatives")


def test_explode_makes_neighbouring_pairs_of_one_group(write: Write) -> None:
    lines = [{"captions": ["a", "b", "c"]}, {"captions": ["d", "e"]}]
    path = write("t.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    source = {"path": path, "explode": True}
    rows = next(opened([source], "anchor positive", "group", batch_size=3).batches(0)).rows
    assert sorted((row["anchor"], row["positive"]) for row in rows) == [("a", "b"), ("b", "c"), ("d", "e")]
    assert len({row["group"] for row in rows if row["anchor"] in "ab"}) == 1
    assert len({row["group"] for row in rows}) == 2
    assert "group" not in next(opened([source], "anchor positive", batch_size=3).batches(0)).rows[0]
    single = write("u.jsonl", '{"captions": ["a"]}\n')
    with pytest.raises(DataError, match=r"u\.jsonl:1: explode needs two texts or more"):
        opened([{"path": single, "explode": True}], "anchor positive", batch_size=1)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({"split": "train"}, "ac"),
        ({"split": ["train", "dev"]}, "abc"),
        ({"flag": False}, "ab"),
        ({"flag": True, "split": "train"}, "c"),
        ({"n": 1}, "a"),
        ({"n": None}, "c"),
    ],
)
def test_where_keeps_rows_of_text_and_typed_columns(write: Write, where: dict[str, Any], kept: str) -> None:
    tsv = write("t.tsv", "anchor\tsplit\tflag\tn\na\ttrain\tfalse\t1\nb\tdev\tFalse\t2\nc\ttrain\ttrue\t\n")
    lines = [
        {"anchor": "a", "split": "train", "flag": False, "n": 1},
        {"anchor": "b", "split": "dev", "flag": False, "n": 2},
        {"anchor": "c", "split": "train", "flag": True, "n": None},
    ]
    jsonl = write("t.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    for path in (tsv, jsonl):
        batch = next(opened([{"path": path, "where": where}], batch_size=len(kept)).batches(0))
        assert sorted(row["anchor"] for row in batch.rows) == sorted(kept)


@pytest.mark.parametrize(
    ("settings", "sources", "message"),
    [
        ({}, [{"weight": 2.0}], r"data\.train\[0\]\.weight: a weight is not read by mixing 'concatenate'"),
        ({"mixing": "temperature"}, [{"stream": True}], r"data\.mixing: mixing by temperature needs the sizes"),
        ({"sampler": "by-label"}, [{}], r"the sampler by-label needs a column with role label"),
    ],
)
def test_settings_that_contradict(write: Write, settings: dict[str, Any], sources: list[Any], message: str) -> None:
    path = write("t.txt", "one\ntwo\n")
    with pytest.raises(UserError, match=message) as caught:
        opened([{"path": path, **source} for source in sources], batch_size=1, **settings)
    assert caught.value.remedy
    assert isinstance(caught.value, DataError | RecipeError)


def test_by_label_batch_must_hold_whole_groups(write: Write) -> None:
    path = write("t.tsv", "text\tlabel\nx\t0\ny\t0\n")
    with pytest.raises(DataError, match="batches of 3 rows cannot hold 2 rows of each label; make it a multiple"):
        opened([{"path": path}], "anchor", "label", batch_size=3, sampler="by-label")


def test_opening_data_imports_neither_torch_nor_transformers(write: Write) -> None:
    path = write("t.tsv", "anchor\tpositive\na\tb\n")
    code = f"""
import sys
from tests.data.helpers import opened
rows = opened([{{"path": {path!r}}}], "anchor positive", batch_size=1)
assert next(rows.batches(0)).rows == [{{"anchor": "a", "positive": "b"}}]
heavy = [name for name in ("torch", "transformers", "datasets") if name in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
