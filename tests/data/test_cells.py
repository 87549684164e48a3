"""Every bad cell: refused with file, row, column and remedy, or skipped and counted by reason."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkit.config.recipe import DataConfig, SourceConfig
from embedkit.data import open_training
from embedkit.data.images.paths import image_path
from embedkit.data.schema.contract import Contract
from embedkit.data.schema.parsers import (
    TextReader,
    is_blank,
    read_features,
    read_group,
    read_image,
    read_label,
    read_score,
)
from embedkit.data.schema.rows import BadRow
from embedkit.errors import DataError
from tests.data.helpers import opened
from tests.helpers import image_data

Write = Callable[[str, "str | bytes"], str]

GOOD = {"anchor": "good", "score": 1.5, "label": 3, "group": "g", "texts": ["t"], "negatives": ["n"]}
ROLES = " ".join(GOOD)

CELLS: list[tuple[str, Any, str, str]] = [
    ("anchor", "", "blank text", "the text is empty"),
    ("anchor", " \t\u200b\u00a0", "blank text", "only white space"),
    ("anchor", None, "missing value", "expected text, found nothing (null)"),
    ("anchor", 17, "wrong type", "expected text, found int 17"),
    ("anchor", 1.5, "wrong type", "expected text, found float 1.5"),
    ("anchor", ["x"], "wrong type", "expected text, found list"),
    ("anchor", True, "wrong type", "expected text, found bool True"),
    ("anchor", "x" * 10_000_000, "long text", "10000000 characters, more than max_chars = 100000"),
    ("score", float("nan"), "bad score", "the score is nan"),
    ("score", "inf", "bad score", "the score is inf"),
    ("score", "high", "wrong type", "expected a number, found str 'high'"),
    ("score", None, "missing value", "expected a number"),
    ("score", True, "wrong type", "expected a number, found bool True"),
    ("score", 10**400, "wrong type", "a very large number"),
    ("label", "cat", "wrong type", "expected an integer label, found str 'cat'"),
    ("label", 1.5, "wrong type", "expected an integer label"),
    ("label", -1, "bad label", "the label -1 is out of range"),
    ("label", "-1", "bad label", "the label -1 is out of range"),
    ("label", 2**63, "bad label", "out of range"),
    ("label", True, "wrong type", "expected an integer label, found bool True"),
    ("group", 1.5, "wrong type", "expected a group name or number"),
    ("group", "", "wrong type", "expected a group name or number"),
    ("group", 2**70, "bad group", "out of range"),
    ("texts", [], "empty list", "the list of texts is empty"),
    ("texts", ["a", ""], "blank text", "the text is empty"),
    ("texts", ["a", None], "missing value", "expected text"),
    ("texts", {"a": 1}, "wrong type", "expected a list of texts, found dict"),
    ("negatives", [["nested"]], "wrong type", "expected text, found list"),
    ("negatives", "plain", "bad list", "expected a JSON list"),
]


@pytest.mark.parametrize(("role", "cell", "reason", "what"), CELLS, ids=[f"{c[0]}-{i}" for i, c in enumerate(CELLS)])
@pytest.mark.parametrize("late", [False, True])
def test_bad_cell_is_refused_or_counted(write: Write, role: str, cell: Any, reason: str, what: str, late: bool) -> None:
    before = 150 if late else 2  # within and behind the rows that are checked first
    lines = [json.dumps(GOOD)] * before + [json.dumps({**GOOD, role: cell}), json.dumps(GOOD)]
    path = write("t.jsonl", "\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        opened([{"path": path}], ROLES, batch_size=1)
    line = str(caught.value)
    assert f"t.jsonl:{before + 1} column {role!r}: " in line
    assert what in line
    assert len(line) < 400
    assert "\n" not in line
    assert caught.value.remedy
    rows = opened([{"path": path}], ROLES, batch_size=1, on_bad_row="skip")
    assert rows.num_rows == before + 1
    assert rows.summary()["dropped"] == {reason: 1}
    assert rows.summary()["sources"][0]["dropped"] == {reason: 1}


def test_missing_key_in_a_row_names_the_column(write: Write) -> None:
    path = write("t.jsonl", '{"anchor": "a"}\n{"other": "b"}\n')
    with pytest.raises(DataError, match=r"t\.jsonl:2 column 'anchor': this row lacks the column"):
        opened([{"path": path}], batch_size=1)


def test_structural_faults_are_skipped_and_counted_too(write: Write) -> None:
    path = write("t.tsv", b"anchor\tb\nx\ty\nragged\nbad\xff\t1\nz\tw\n")
    rows = opened([{"path": path}], batch_size=1, on_bad_row="skip")
    assert rows.num_rows == 2
    assert rows.summary()["dropped"] == {"ragged row": 1, "not UTF-8": 1}


def test_nothing_left_after_skipping_says_why(write: Write) -> None:
    path = write("t.jsonl", '{"anchor": ""}\n{"anchor": "", "x": 1}\n')
    with pytest.raises(DataError, match=r"no rows are left \(2 read, 0 left out by 'where', 2 skipped: blank text\)"):
        opened([{"path": path}], batch_size=1, on_bad_row="skip")


@pytest.mark.parametrize(("name", "content"), [("t.csv", "anchor\n"), ("t.tsv", "anchor\n")])
def test_a_header_without_rows_is_refused(write: Write, name: str, content: str) -> None:
    with pytest.raises(DataError, match=r"data\.train\[0\] .*it has no rows; check the file"):
        opened([{"path": write(name, content)}], batch_size=1)


def test_long_texts_are_cut_on_demand_and_counted(write: Write) -> None:
    path = write("t.txt", "x" * 10_000_000 + "\nshort\n")
    rows = opened([{"path": path}], batch_size=2, max_chars=50, cut_long=True)
    texts = {row["anchor"] for row in next(rows.batches(0)).rows}
    assert texts == {"x" * 50, "short"}
    assert rows.summary()["sources"][0]["cut"] == 1


def test_groups_keep_their_type_and_may_not_clash(write: Write) -> None:
    path = write("t.jsonl", '{"anchor": "a", "group": 5}\n{"anchor": "b", "group": "5"}\n')
    rows = next(opened([{"path": path}], "anchor group", batch_size=2).batches(0)).rows
    assert {row["anchor"]: row["group"] for row in rows} == {"a": 5, "b": "5"}


def test_image_paths_stay_inside_the_data_folder(write: Write, tmp_path: Path) -> None:
    write("data/in/x.png", image_data.samples(1)[0][0])
    write("secret.png", image_data.samples(1)[0][0])
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")

    def image(cell: str) -> Any:
        path = write("data/t.jsonl", json.dumps({"image": cell, "texts": ["t"]}) + "\n")
        return next(opened([{"path": path}], "image texts", batch_size=1).batches(0)).rows[0]["image"]

    assert image("in/x.png") == str((tmp_path / "data/in/x.png").resolve())
    assert image("./in/../in/x.png") == str((tmp_path / "data/in/x.png").resolve())
    for bad, what in [
        ("../secret.png", "leads out of the data folder"),
        ("link.png", "leads out of the data folder"),
        (str(tmp_path / "secret.png"), "leads out of the data folder"),
        ("http://example.org/x.png", "is not relative"),
        ("file:secret.png", "is not relative"),
        ("in/none.png", "there is no image file"),
    ]:
        with pytest.raises(DataError, match=f"t.jsonl:1 column 'image': .*{what}.*; write paths relative"):
            image(bad)
    with pytest.raises(BadRow, match="there is no image file"):  # parquet can hold it
        image_path("in\0/x.png", tmp_path)


def test_images_come_as_bytes_or_as_the_dict_of_datasets() -> None:
    assert read_image(b"png") == b"png"
    assert read_image({"bytes": b"png", "path": "x.png"}) == b"png"
    assert read_image({"bytes": None, "path": "x.png"}) == "x.png"
    for bad in (None, b"", "", 5, {"bytes": None, "path": None}):
        with pytest.raises(BadRow):
            read_image(bad)


@pytest.mark.parametrize(("cell", "value"), [("4.5", 4.5), (" 3 ", 3.0), (2, 2.0), ("1e-3", 1e-3)])
def test_scores_are_read_from_numbers_and_text(cell: Any, value: float) -> None:
    assert read_score(cell) == value


@pytest.mark.parametrize(("cell", "value"), [("0", 0), ("007", 7), (12, 12), (2**63 - 1, 2**63 - 1)])
def test_labels_are_read_from_integers_and_digits(cell: Any, value: int) -> None:
    assert read_label(cell) == value


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)


@given(ANYTHING)
def test_fuzz_any_cell_is_a_value_or_a_bad_row(cell: Any) -> None:
    reader = TextReader(max_chars=20, cut=False)
    for read, kind in [
        (reader.text, str),
        (reader.texts, list),
        (read_score, float),
        (read_label, int),
        (read_group, int | str),
        (read_image, bytes | str),
    ]:
        try:
            value = read(cell)
        except BadRow:
            continue
        assert isinstance(value, kind)
        assert not isinstance(value, float) or math.isfinite(value)


@given(st.text())
def test_blank_means_nothing_to_see(text: str) -> None:
    assert is_blank(f" {text}\u200b") == is_blank(text)
    assert not is_blank(text + "a")


@pytest.mark.parametrize(("cell", "value"), [([1, 2.5], [1.0, 2.5]), ("[0, -1.5]", [0.0, -1.5])], ids=str)
def test_features_are_lists_of_numbers(cell: Any, value: list[float]) -> None:
    found = read_features(cell)
    assert found == value
    assert all(isinstance(number, float) for number in found)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [([], "empty list"), (None, "missing value"), ([1.0, math.nan], "bad features"), ([True], "wrong type"),
     (["1"], "wrong type"), ([[1.0], [2.0]], "wrong type"), ([[1, 2], [3]], "wrong type"),
     (3.5, "wrong type"), ("x", "bad list"),
     ("{}", "bad list"), ([1.0, None], "wrong type"), (b"12", "wrong type")],
    ids=str,
)  # fmt: skip
def test_bad_features_are_refused(cell: Any, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        read_features(cell)
    assert caught.value.reason == reason


def test_features_reach_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps({"anchor": f"text {i}", "features": [i, 0.5]}) + "\n" for i in range(4)))
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps({"anchor": f"other {i}"}) + "\n" for i in range(4)))
    config = DataConfig(train=[SourceConfig(path=str(path)), SourceConfig(path=str(plain))], drop_last=False)
    rows = open_training(config, Contract(accepts=frozenset({"features"})), batch_size=8, seed=0)
    (batch,) = rows.batches(0)
    found = {row["anchor"]: row["features"] for row in batch.rows}
    assert found == {f"text {i}": [float(i), 0.5] for i in range(4)} | {f"other {i}": None for i in range(4)}
