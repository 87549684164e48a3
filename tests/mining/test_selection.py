"""Criteria against naive statements over whole matrices; files, order, reports and refusals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.data import read_rows
from embedkit.errors import DataError, UserError
from embedkit.mining.selection import neighbours
from embedkit.mining.selection import subsets as subsets_module
from embedkit.mining.selection.captions import parse
from embedkit.mining.selection.criteria.texts import plain_text


def groups_of_copies(seed: int, rows: int = 80, dim: int = 6) -> np.ndarray:
    """Vectors in clumps, with exact copies and a vector of zeros among them."""
    draw = np.random.default_rng(seed)
    middle = draw.standard_normal((12, dim))
    table = middle[draw.integers(12, size=rows)] + 0.15 * draw.standard_normal((rows, dim))
    table[5], table[9], table[30] = table[3], table[3] * 2, 0
    return table.astype(np.float32)


def unit(table: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(table.astype(float), axis=1, keepdims=True)
    return (table / np.where(lengths > 0, lengths, 1)).astype(np.float32).astype(float)


def texts(rows: int) -> list[str]:
    return [f"text {number} " + "x" * (number * 7 % 11) for number in range(rows)]


@pytest.mark.parametrize("block", [4096, 7])
@pytest.mark.parametrize("keep", ["first", "longest"])
@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_are_those_of_plain_loops(seed: int, keep: str, block: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", block)
    table = groups_of_copies(seed)
    names, scores = texts(len(table)), unit(table) @ unit(table).T
    order = list(range(len(table))) if keep == "first" else sorted(range(len(table)), key=lambda i: -len(names[i]))
    stay: list[int] = []
    for row in order:
        if not any(round(scores[row, other], 6) >= 0.97 for other in stay):
            stay.append(row)
    result = embedkit.select(names, {"name": "near-duplicates", "threshold": 0.97, "keep": keep}, vectors=table)
    assert [row["text"] for row in result.rows] == [names[row] for row in sorted(stay)]
    assert 12 < len(stay) < 80
    # connected components: repeated merging of sets
    sets = [{row} for row in range(len(table))]
    for i, j in itertools.combinations(range(len(table)), 2):
        if round(scores[i, j], 6) >= 0.97 and sets[i] is not sets[j]:
            both = sets[i] | sets[j]
            for row in both:
                sets[row] = both
    heads = {min(one, key=order.index) for one in sets}
    result = embedkit.select(
        names, {"name": "near-duplicates", "threshold": 0.97, "keep": keep, "groups": "components"}, vectors=table
    )
    assert [row["text"] for row in result.rows] == [names[row] for row in sorted(heads)]
    assert result.report.steps[0]["details"]["groups"] == len({id(one) for one in sets if len(one) > 1})


def test_a_chain_is_one_component_and_its_ends_stay_with_greedy() -> None:
    angles = np.radians([0, 10, 20])
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    step = {"name": "near-duplicates", "threshold": float(np.cos(np.radians(11)))}
    assert len(embedkit.select(["a", "b", "c"], step, vectors=chain).rows) == 2
    assert len(embedkit.select(["a", "b", "c"], {**step, "groups": "components"}, vectors=chain).rows) == 1


def test_equal_vectors_are_duplicates_at_a_threshold_of_one_and_zeros_are_not() -> None:
    table = np.random.default_rng(0).standard_normal((1, 384)).astype(np.float32).repeat(3, axis=0)
    table = np.concatenate([table, np.zeros((2, 384), np.float32)])
    result = embedkit.select(texts(5), "near-duplicates=1.0", vectors=table)
    assert len(result.rows) == 3 and result.report.steps[0]["details"] == {"groups": 1, "largest_group": 3}


@pytest.mark.parametrize("seed", range(3))
def test_k_centre_is_that_of_plain_loops(seed: int, monkeypatch: Any) -> None:
    table = groups_of_copies(seed, rows=50)
    scores = np.round(unit(table) @ unit(table).T, 9)
    stay = [0]
    while len(stay) < 20:
        rest = [row for row in range(50) if row not in stay]
        stay.append(min(rest, key=lambda row: (max(scores[row, one] for one in stay), row)))
    for block in (2048, 7):
        monkeypatch.setattr(subsets_module, "_BLOCK", block)
        result = embedkit.select(texts(50), "diversity=20", vectors=table)
        assert [row["text"] for row in result.rows] == [texts(50)[row] for row in sorted(stay)]
    largest = 1 - min(max(scores[row, one] for one in stay) for row in range(50))
    assert result.report.steps[0]["details"]["largest_distance"] == pytest.approx(largest)


@pytest.mark.parametrize("seed", range(3))
def test_facility_location_is_the_greedy_of_plain_loops(seed: int, monkeypatch: Any) -> None:
    table = groups_of_copies(seed, rows=50)
    scores = np.maximum(unit(table) @ unit(table).T, 0)
    stay: list[int] = []
    while len(stay) < 15:

        def value(row: int) -> float:
            return round(float(scores[[*stay, row]].max(axis=0).sum()), 9)

        stay.append(max((row for row in range(50) if row not in stay), key=lambda row: (value(row), -row)))
    for block, batch in ((2048, 64), (7, 2)):
        monkeypatch.setattr(subsets_module, "_BLOCK", block)
        monkeypatch.setattr(subsets_module, "_BATCH", batch)
        result = embedkit.select(texts(50), {"name": "diversity", "number": 15, "method": "facility-location"},
                                 vectors=table)  # fmt: skip
        assert [row["text"] for row in result.rows] == [texts(50)[row] for row in sorted(stay)]


@pytest.mark.parametrize("floor", [0.0, 0.5, -1.0])
@pytest.mark.parametrize("seed", range(2))
def test_augmentation_similarity_is_the_greedy_of_its_formula(seed: int, floor: float, monkeypatch: Any) -> None:
    table = groups_of_copies(seed, rows=40)
    labels = [f"c{number % 3}" if number < 36 else "rare" for number in range(40)]
    scores = unit(table) @ unit(table).T
    scores = np.where(np.round(scores, 9) >= floor, scores, 0)

    def value(subset: list[int], members: list[int]) -> float:
        """F(S) of the paper's Problem, self-similarities left out."""
        outer = sum(scores[i, j] for i in subset for j in members if j != i)
        return float(outer - sum(scores[i, j] for i, j in itertools.combinations(subset, 2)))

    members_of = {name: [row for row in range(40) if labels[row] == name] for name in ("c0", "c1", "c2", "rare")}
    quotas = {"c0": 6, "c1": 6, "c2": 6, "rare": 2}  # half of 12, 12, 12 and 4
    expected: list[int] = []
    for name, members in members_of.items():
        subset: list[int] = []
        while len(subset) < quotas[name]:
            rest = [row for row in members if row not in subset]
            subset.append(
                max(rest, key=lambda row: (round(value([*subset, row], members) - value(subset, members), 5), -row))
            )
        expected += subset
    monkeypatch.setattr(subsets_module, "_BLOCK", 7)
    rows = [{"text": text, "topic": label} for text, label in zip(texts(40), labels, strict=True)]
    step = {"name": "augmentation-similarity", "number": "50%", "classes": "topic", "floor": floor}
    result = embedkit.select(rows, step, vectors=table)
    assert [row["text"] for row in result.rows] == [texts(40)[row] for row in sorted(expected)]


def test_augmentations_are_averaged_over_draws() -> None:
    asked: list[list[str]] = []

    def encode(batch: list[str]) -> np.ndarray:
        asked.append(list(batch))
        return np.array([[text.count(letter) + 0.5 for letter in "abcd"] for text in batch])

    rows = [" ".join("abcd"[(number + place) % 4] * (place + 1) for place in range(6)) for number in range(12)]
    step = {"name": "augmentation-similarity", "number": 4, "view": {"name": "word-deletion", "rate": 0.5}, "draws": 3}
    result = embedkit.select(rows, step, SimpleNamespace(encode=encode))
    assert len(result.rows) == 4
    edits = {text for batch in asked for text in batch}
    assert len(edits) > 12 and all(len(text.split()) <= 6 for text in edits)
    again = embedkit.select(rows, step, SimpleNamespace(encode=encode))
    assert again.rows == result.rows
    clusters = embedkit.select(rows, {**step, "classes": 2}, SimpleNamespace(encode=encode))
    assert len(clusters.rows) == 4 and clusters.report.steps[0]["details"]["classes"] == 2


def test_equal_texts_by_form_and_columns() -> None:
    rows = [
        "Caf\u00e9 au lait!",
        "cafe\u0301  AU LAIT",
        "caf\u00e9 au lait",
        "Caf\u00e9 au lait!",
        "??",
        "!?",
        "\u2163 x",
        "iv X",
    ]

    def left(form: str, **more: str) -> list[str]:
        return [row["text"] for row in embedkit.select(rows, {"name": "equal-text", "form": form, **more}).rows]

    assert left("exact") == [rows[0], rows[1], rows[2], *rows[4:]]
    assert left("spaces") == left("exact")
    assert left("letters") == [rows[0], "??", "!?", rows[6]]
    assert left("letters", keep="longest") == [rows[1], "??", "!?", rows[7]]
    assert plain_text("\u00df") == plain_text("SS") and plain_text("") == ""
    pairs = [{"anchor": "a", "positive": "b"}, {"anchor": "A", "positive": "c"}, {"anchor": "a.", "positive": "B"}]
    assert embedkit.select(pairs, "equal-text").rows == pairs[:2]  # both texts of a pair count
    assert embedkit.select(pairs, "equal-text", column="anchor").rows == pairs[:1]
    assert embedkit.select(pairs, {"name": "equal-text", "columns": ["positive"]}).rows == pairs[:2]
    triple = [{"text": "a", "n": 1}, {"text": "b", "n": 2}, {"text": "a", "n": 3}]
    assert embedkit.dedup(triple).rows == triple[:2]


def test_numbers_and_lengths() -> None:
    rows = [
        {"text": "x" * number, "score": str(value)}
        for number, value in zip((1, 5, 9, 2), (0.5, 0.1, 0.9, 0.5), strict=True)
    ]

    def left(*steps: Any) -> list[int]:
        return [len(row["text"]) for row in embedkit.select(rows, list(steps)).rows]

    assert left("length={least: 2, most: 5}") == [5, 2]
    assert left({"name": "score", "least": 0.5}) == [1, 9, 2]
    assert left({"name": "score", "top": 2}) == [1, 9]  # of equal ones the earlier
    assert left({"name": "score", "top": "50%", "lowest": True}) == [1, 5]
    assert left({"name": "score", "top": 0.5}, "length=2") == [9]
    assert left("length=2", {"name": "score", "top": 1}) == [9]
    assert left({"name": "score", "top": 1}, "length={most: 9}") == [9]
    assert left("random=2") == left("random=2") and left("random={number: 2, seed: 5}") in (
        [1, 2],
        [1, 5],
        [1, 9],
        [5, 9],
        [5, 2],
        [9, 2],
    )
    draws = {tuple(left({"name": "random", "number": 2, "seed": seed})) for seed in range(30)}
    assert len(draws) == 6


@pytest.mark.parametrize(("caption", "relations", "actions"), [
    ("a man riding a horse on the beach", 2, 1), ("Two dogs run through the snow.", 2, 1),
    ("A woman is standing next to a red car", 1, 1), ("red leather handbag", 0, 0), ("SALE 50% off", 0, 0),
    ("building", 0, 0), ("a parked car", 0, 0), ("a cat on a mat", 1, 0), ("children played football", 1, 1),
    ("the boy grabbed his hat", 1, 1), ("she carries a bag", 1, 1), ("running shoes", 1, 1), ("", 0, 0),
    ("the morning meeting", 0, 0), ("\u72ac\u304c\u8d70\u308b", 0, 0),
])  # fmt: skip
def test_captions_are_read(caption: str, relations: int, actions: int) -> None:
    result = parse(caption)
    assert (result.relations, result.actions) == (relations, actions)


def test_caption_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"caption": "a man rides a horse", "ocr": None}, {"caption": "a cat on a mat", "ocr": ""},
        {"caption": "handbag", "ocr": ["x"]}, {"caption": "a dog chases Rover the cat", "ocr": ["ROVER!"]},
        {"caption": "a dog chases a cat", "ocr": "cat"},
    ]  # fmt: skip

    def left(step: Any) -> list[int]:
        return [rows.index(row) for row in embedkit.select(rows, step).rows]

    assert left("caption") == [0, 3, 4]
    assert left("caption={action: false}") == [0, 1, 3, 4]
    assert left("caption={spotted: ocr}") == [0, 4]  # "cat" is too short to count
    assert left("caption={spotted: ocr, overlap: 3}") == [0]
    report = embedkit.select(rows, "caption={spotted: ocr}").report.steps[0]["details"]
    assert report == {"complexity": 1, "action": 1, "text_spotting": 1}
    Path("own.py").write_text(
        "def parse(text): return len(text.split()) - 3, text.count('mat')\ndef bad(text): return 1"
    )
    assert left("caption={parser: 'own.py:parse'}") == [1]
    with pytest.raises(UserError, match=r"own\.py:bad on .*: returned 1 .*return two whole numbers"):
        left("caption={parser: 'own.py:bad'}")


def test_image_text_scores() -> None:
    draw = np.random.default_rng(4)
    first, second = draw.standard_normal((2, 30, 8)).astype(np.float32)
    rows = [{"image": f"{number}.png", "caption": f"c{number}"} for number in range(30)]
    scores = (unit(first) * unit(second)).sum(axis=1).round(6)
    given = {"vectors": first, "image_vectors": second}
    result = embedkit.select(rows, "image-text=0.1", **given)
    assert [rows.index(row) for row in result.rows] == np.flatnonzero(scores >= 0.1).tolist()
    result = embedkit.select(rows, {"name": "image-text", "top": "20%"}, **given)
    assert [rows.index(row) for row in result.rows] == sorted(np.argsort(-scores, kind="stable")[:6].tolist())
    with pytest.raises(UserError, match="image_vectors: vectors of the texts and of the images are needed"):
        embedkit.select(rows, "image-text=0.1", vectors=first)


def test_only_rows_that_are_left_are_encoded() -> None:
    asked: list[str] = []

    def encode(batch: list[str]) -> np.ndarray:
        asked.extend(batch)
        return np.array([[len(text), text.count("a") + 1.0] for text in batch])

    steps = ["equal-text", "length=3", "near-duplicates=0.999", "diversity=2"]
    result = embedkit.select(["a", "a cat", "A cat", "banana", "two dogs"], steps, SimpleNamespace(encode=encode))
    assert sorted(asked) == ["a cat", "banana", "two dogs"] and len(result.rows) == 2
    assert [step["before"] for step in result.report.steps] == [5, 4, 3, 3]


def test_images_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "photos").mkdir()
    for number, colour in enumerate(["red", "red", "blue"]):
        image.new("RGB", (4, 4), colour).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "list.csv").write_text("image,caption\n0.png,a\n1.png,b\n2.png,c\n")
    monkeypatch.chdir(tmp_path)

    def encode(pictures: list[Any]) -> np.ndarray:
        return np.array([np.asarray(picture, float).mean(axis=(0, 1)) for picture in pictures])

    monkeypatch.setattr("embedkit.mining.rows.vectors._IMAGES", 2)
    encoder = SimpleNamespace(encode=encode, preprocess=True)
    result = embedkit.select("photos/list.csv", "near-duplicates=0.99", encoder, image_column="image", output="o.jsonl")
    assert [row["caption"] for row in result.rows] == ["a", "c"]
    assert [row["image"] for row in read_rows("o.jsonl")] == [
        "photos/0.png",
        "photos/2.png",
    ]  # they lead there from here
    beside = embedkit.dedup("photos/list.csv", encoder, image_column="image", output="photos/o.jsonl")
    assert [row["image"] for row in beside.rows] == ["0.png", "2.png"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("id,text\n1,a cat\n2,A cat.\n3,two dogs\n4,rain\n")
    np.save("v.npy", np.array([[1.0, 0], [1, 0.01], [0, 1], [-1, 0]]))
    return tmp_path


@pytest.mark.parametrize("name", ["o.jsonl", "o.parquet"])
def test_command_line_and_python_are_one(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["select", "t.csv", name, "near-duplicates=0.9", "{name: random, number: 50%}", "--vectors", "v.npy"]
    assert main([*words, "--json", "r.json"]) == 0
    result = embedkit.select("t.csv", ["near-duplicates=0.9", {"name": "random", "number": 0.5}], vectors="v.npy")
    assert result.rows == list(read_rows(name)) == result.to_dataset().to_list()
    report = json.loads(Path("r.json").read_text())
    assert report["steps"] == result.report.steps and report["rows"] == 2 and report["records"] == 4
    printed = capsys.readouterr().out
    assert "near-duplicates (threshold=0.9) left out 1 of 4" in printed and "1.000  A cat.  ~  a cat" in printed
    assert main(["dedup", "t.csv", "d.jsonl", "--vectors", "v.npy", "--threshold", "0.9"]) == 0
    assert [row["id"] for row in read_rows("d.jsonl")] == ["1", "3", "4"]


@pytest.mark.parametrize("flaw", [
    (["near-duplicate=0.9"], "unknown criterion 'near-duplicate'; did you mean 'near-duplicates'?"),
    (["score=0.5"], "score.column: it is 0.5, and must be text; name the setting, score={SETTING: 0.5}, of column,"),
    (["near-duplicates=2"], "near-duplicates.threshold: threshold is 2; it must be at most 1"),
    (["near-duplicates={treshold: 0.9}"], "unknown setting 'treshold'; did you mean 'threshold'?"),
    (["near-duplicates={keep: last}"], "near-duplicates.keep"),
    (["near-duplicates=0.9"], "neither a model nor vectors are given"),
    (["near-duplicates=0.9", "--vectors", "nan.npy"], "nan.npy: row 2: the vector has NaN"),
    (["near-duplicates=0.9", "--vectors", "few.npy"], "few.npy: 2 vectors for 4 rows of t.csv"),
    (["diversity=5", "--vectors", "v.npy"], "diversity: 5 rows are asked for, and 4 are left"),
    (["diversity=0", "--vectors", "v.npy"], "be a number of rows, 1000, or a share, 0.5 or 50%"),
    (["diversity=150%", "--vectors", "v.npy"], "be a number of rows, 1000, or a share"),
    (["diversity", "--vectors", "v.npy"], "diversity.number: number is missing"),
    (["score={top: 2}"], "no column 'score' (column)"),
    (["score"], "score: it says neither least, most nor top"),
    (["score={column: text, top: 2}"], "t.csv:2 column 'text': expected a number"),
    (["length={most: 1}"], "length (most=1) leaves no row of 4; loosen it"),
    (["length={least: 5, most: 1}"], "most is 1, below least, 5"),
    (["length=5", "--column", "nope"], "no column 'nope' (--column)"),
    (["length=a"], "length.least"),
    (["image-text=0.2", "--vectors", "v.npy"], "there is no column of images"),
    (["{least: 3}"], "is no criterion"),
    (["length: 3"], "unknown criterion"),
    (["augmentation-similarity={number: 2, view: nope}", "--vectors", "v.npy"], "nope"),
    (["augmentation-similarity={number: 2, view: word-deletion}", "--vectors", "v.npy"], "texts need a model"),
    (["augmentation-similarity={number: 2, classes: topic}", "--vectors", "v.npy"], "no column 'topic'"),
    (["my.py:nope"], "my.py"),
    (["length=1", "--limit", "2", "--vectors", "v.npy"], "vectors: they belong to all rows"),
    (["length=1", "--truncate-dim", "2"], "--truncate-dim: it is for a model, and none is given"),
    (["length=1", "--device", "cpu"], "--device is for a model, and none is given"),
], ids=lambda flaw: " ".join(flaw[0]))  # fmt: skip
def test_mistakes_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], flaw: tuple[list[str], str]) -> None:
    table = np.load("v.npy")
    np.save("few.npy", table[:2])
    table[1, 0] = np.nan
    np.save("nan.npy", table)
    code = main(["select", "t.csv", "out.jsonl", *flaw[0]])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and flaw[1] in line, line
    assert not Path("out.jsonl").exists()


def test_what_a_file_cannot_hold(here: Path) -> None:
    with pytest.raises(UserError, match="JSON has not; write a .parquet file"):
        embedkit.select([{"text": "a", "image": b"x"}], "length=1", output="o.jsonl")
    with pytest.raises(UserError, match=r"a column holds several kinds of cells \(.*; write a .jsonl file"):
        embedkit.select([{"text": "a", "x": 1}, {"text": "b", "x": "y"}], "length=1", output="o.parquet")
    assert not list(here.glob("o.*"))
    embedkit.select([{"text": "\ud800 a"}, {"text": "b"}], "random=2", output="o.jsonl")
    assert json.loads(Path("o.jsonl").read_text().splitlines()[0]) == {"text": "\ud800 a"}
    Path("e.csv").write_text("text\n")
    with pytest.raises(DataError, match="has no rows"):
        embedkit.select("e.csv", "length=1")
