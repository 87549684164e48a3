"""Clusters against scikit-learn and a statement of k-means in plain loops; labels that train."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.config.recipe_io import load_recipe
from embedkit.data import open_training, read_rows
from embedkit.errors import DataError, UserError
from embedkit.methods import methods
from embedkit.mining.labels import kmeans as module
from embedkit.mining.labels.kmeans import kmeans
from embedkit.mining.vectors import Vectors


def blobs(seed: int, rows: int = 90, dim: int = 5, centres: int = 4) -> np.ndarray:
    draw = np.random.default_rng(seed)
    middle = draw.standard_normal((centres, dim)) * 3
    return (middle[draw.integers(centres, size=rows)] + draw.standard_normal((rows, dim))).astype(np.float32)


def naive(table: np.ndarray, centres: np.ndarray, spherical: bool) -> tuple[list[int], float]:
    """Lloyd's algorithm, one vector at a time."""
    points, means = table.astype(float).tolist(), centres.astype(float).tolist()
    labels: list[int] = []
    while True:
        distances = [[sum((a - b) ** 2 for a, b in zip(x, c, strict=True)) for c in means] for x in points]
        new = [row.index(min(row)) for row in distances]
        if new == labels:
            return labels, sum(min(row) for row in distances)
        labels = new
        for k in range(len(means)):
            members = [x for x, label in zip(points, labels, strict=True) if label == k]
            assert members
            mean = [sum(column) / len(members) for column in zip(*members, strict=True)]
            length = sum(value**2 for value in mean) ** 0.5 if spherical else 1.0
            means[k] = [value / length for value in mean]


def same_partition(first: np.ndarray, second: list[int]) -> bool:
    return len(set(zip(first.tolist(), second, strict=True))) == len(set(second)) == len(set(first.tolist()))


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_lloyd_is_that_of_plain_loops(seed: int, spherical: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    table = blobs(seed)
    if spherical:
        table /= np.linalg.norm(table, axis=1, keepdims=True)
    start = table[[0, 20, 40, 60]]
    vectors = Vectors(table, "t", unit=spherical)
    labels, inertia = naive(vectors.rows(slice(None)), start, spherical)
    for block in (8192, 7):
        monkeypatch.setattr(module, "_BLOCK", block)
        result = kmeans(vectors, 4, centres=start, spherical=spherical)
        assert same_partition(result.labels, labels) and result.converged
        assert result.inertia == pytest.approx(inertia, rel=1e-9)
        assert (np.diff(result.sizes) <= 0).all()
        means = np.stack([vectors.rows(slice(None))[result.labels == k].mean(axis=0) for k in range(4)])
        means = means / np.linalg.norm(means, axis=1, keepdims=True) if spherical else means
        assert np.allclose(result.centres, means, atol=1e-6)


def test_it_agrees_with_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    table = blobs(9, rows=400, dim=16, centres=6)
    start = table[:6]
    theirs = cluster.KMeans(6, init=start, n_init=1, algorithm="lloyd", tol=0).fit(table.astype(float))
    ours = kmeans(Vectors(table, "t", unit=False), 6, centres=start, steps=300)
    assert same_partition(ours.labels, theirs.labels_.tolist())
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-6)


def test_restarts_help_and_draws_repeat() -> None:
    vectors = Vectors(blobs(3, rows=300, centres=8), "t", unit=False)
    single = [kmeans(vectors, 8, restarts=1, seed=seed).inertia for seed in range(6)]
    best = kmeans(vectors, 8, restarts=5, seed=0)
    assert best.inertia <= single[0] and len(set(single)) > 1
    assert np.array_equal(best.labels, kmeans(vectors, 8, restarts=5, seed=0).labels)


def test_seeding_prefers_what_is_far() -> None:
    table = np.repeat(np.eye(3, dtype=np.float32), [97, 2, 1], axis=0)
    for seed in range(5):  # all three vectors, however rare, since the others have no distance left
        assert kmeans(Vectors(table, "t", unit=False), 3, restarts=1, seed=seed).sizes.tolist() == [97, 2, 1]
    with pytest.raises(DataError, match="3 different vectors for 4 clusters"):
        kmeans(Vectors(table, "t", unit=False), 4)


def test_an_empty_cluster_takes_the_farthest_vector() -> None:
    table = np.array([[0.0], [1.0], [10.0], [11.0], [50.0]], np.float32)
    start = np.array([[0.5], [10.5], [-900.0]])  # nothing is near the third
    result = kmeans(Vectors(table, "t", unit=False), 3, centres=start)
    assert result.labels.tolist() == [0, 0, 1, 1, 2] and result.sizes.tolist() == [2, 2, 1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [dict(row) for row in read_rows("builtin:pairs-train", limit=64)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save("v.npy", blobs(1, rows=64))
    return tmp_path


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_the_sampler_by_label_reads_the_column(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["label", "pairs.jsonl", name, "--vectors", "v.npy", "-k", "4", "--min-rows", "8", "--centres", "c.npy"]
    assert main([*words, "--json", "report.json"]) == 0
    report = json.loads(Path("report.json").read_text())
    rows = list(read_rows(name))
    originals = list(read_rows("pairs.jsonl"))
    assert next({k: v for k, v in row.items() if k != "label"} for row in rows if row["label"] == 0) in originals
    counts = np.bincount([row["label"] for row in rows])
    assert counts.tolist() == [size for size in report["sizes"] if size >= 8]
    assert len(rows) == report["rows"] == 64 - report["dropped"]
    assert np.load("c.npy").shape == (4, 5)
    printed = capsys.readouterr().out
    assert "64 rows in 4 clusters" in printed and "of the variance explained" in printed and "label 0" in printed
    recipe = load_recipe("pairs", [name, "data.sampler=by-label", "data.per_label=8"])
    data = open_training(recipe.data, methods["pairs"]().contract, batch_size=8, seed=0)
    label_of = {row["anchor"]: row["label"] for row in rows}
    full = [batch.rows for batch in data.batches(0) if len(batch.rows) == 8]
    labels = [{label_of[row["anchor"]] for row in rows} for rows in full]
    assert sum(len(one) == 1 for one in labels) >= len(labels) - 2  # what is left of the clusters is mixed at the end
    result = embedkit.label("pairs.jsonl", vectors="v.npy", clusters=4, min_rows=8)
    assert result.rows == rows and result.to_dataset().column_names[-1] == "label"


@pytest.mark.parametrize("flaw", [
    (["-k", "65"], "clusters is 65, and there are 64 rows; give 2 or more"),
    (["-k", "4", "--vectors", "nan.npy"], "nan.npy: row 3: the vector has NaN"),
    (["-k", "4", "--vectors", "few.npy"], "few.npy: 10 vectors for 64 rows of pairs.jsonl"),
    (["-k", "4", "--vectors", "none.npy"], "none.npy: no such file"),
    (["-k", "4", "--vectors", "v.npy", "--model", "m"], "model: vectors are given, so that it has no effect"),
    (["-k", "4"], "neither a model nor vectors are given"),
    (["-k", "4", "--vectors", "v.npy", "--name", "anchor"], "it has a column 'anchor' already"),
    (["-k", "4", "--vectors", "v.npy", "--min-rows", "60"], "no cluster has 60 rows; the largest has"),
    (["-k", "4", "--vectors", "v.npy", "--limit", "9"], "vectors: they belong to all rows, and limit leaves some out"),
    (["-k", "4", "--vectors", "v.npy", "--column", "nope"], "no column 'nope' (--column)"),
    (["-k", "4", "--vectors", "v.npy", "--prompt", "x"], "prompt: it is for a model"),
    (["-k", "4", "--vectors", "v.npy", "--device", "cpu"], "--device is for a model, and none is given"),
    (["-k", "4", "--vectors", "v.npy", "--centres", "c.txt"], "use .npy"),
    (["-k", "4", "--vectors", "same.npy"], "1 different vectors for 4 clusters"),
], ids=lambda flaw: " ".join(flaw[0]))  # fmt: skip
def test_mistakes_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], flaw: tuple[list[str], str]) -> None:
    table = np.load("v.npy")
    np.save("few.npy", table[:10])
    np.save("same.npy", np.ones((64, 3), np.float32))
    table[2, 0] = np.nan
    np.save("nan.npy", table)
    code = main(["label", "pairs.jsonl", "out.jsonl", *flaw[0]])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and flaw[1] in line, line
    assert not Path("out.jsonl").exists()


def test_an_output_is_replaced_only_when_asked(here: Path) -> None:
    embedkit.label("pairs.jsonl", vectors="v.npy", clusters=2, output="out.jsonl")
    with pytest.raises(UserError, match="exists already"):
        embedkit.label("pairs.jsonl", vectors="v.npy", clusters=3, output="out.jsonl")
    embedkit.label("pairs.jsonl", vectors="v.npy", clusters=3, output="out.jsonl", overwrite=True)
    assert {row["label"] for row in read_rows("out.jsonl")} == {0, 1, 2}
