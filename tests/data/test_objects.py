"""Python objects as training data: the same rows from every kind, a path that follows the content, plain refusals."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from embedkit.data.sources import objects
from embedkit.errors import DataError
from tests.data.helpers import opened

ROWS = [{"anchor": f"question {number}", "positive": f"answer {number}"} for number in range(12)]
COLUMNS = {name: [row[name] for row in ROWS] for name in ("anchor", "positive")}


def _objects() -> dict[str, Any]:
    """The same rows as every kind of object."""
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS)
    kinds = {
        "list": ROWS, "tuple": tuple(ROWS), "dict of columns": COLUMNS, "arrow": pa.table(COLUMNS),
        "record batch": pa.record_batch(COLUMNS), "function": lambda: iter(ROWS),
        "pandas": frame, "pandas, index with gaps": pandas.concat([frame[::2], frame[1::2]]).sort_index()[:],
        "Dataset": datasets.Dataset.from_list(ROWS),
        "Dataset, selected": datasets.Dataset.from_list([*ROWS, *ROWS]).select(range(12)),
        "IterableDataset": datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
        "split of a DatasetDict": datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})["train"],
    }  # fmt: skip
    try:
        import polars
    except ImportError:
        return kinds
    return kinds | {"polars": polars.DataFrame(ROWS)}


def test_every_kind_of_object_gives_the_same_rows() -> None:
    fingerprints = set()
    for kind, data in _objects().items():
        path = objects.hold(data)
        rows = opened([{"path": path}], "anchor positive", batch_size=4)
        again = opened([{"path": path, "stream": True}], "anchor positive", batch_size=12)
        assert [row for _, row in objects.part(path).records()] == ROWS, kind
        assert len(next(again.batches(0)).rows) == 12, kind
        fingerprints.add(rows.fingerprint)
        objects.release(path)
    assert len(fingerprints) == 1


def test_texts_alone_are_rows_of_one_text() -> None:
    pandas = pytest.importorskip("pandas")
    texts = ["one", "two", "three"]
    for data in (texts, tuple(texts), pa.array(texts), pa.chunked_array([texts]), pandas.Series(texts),
                 lambda: iter(texts)):  # fmt: skip
        rows = opened([{"path": objects.hold(data)}], "anchor", batch_size=3)
        assert sorted(row["anchor"] for row in next(rows.batches(0)).rows) == sorted(texts)
    named = pandas.Series(texts, name="sentence").drop(1)
    kept = [row for _, row in objects.part(objects.hold(named)).records()]
    assert kept == [{"sentence": "one"}, {"sentence": "three"}]


def test_the_path_follows_the_content() -> None:
    path = objects.hold(ROWS)
    assert objects.hold([dict(row) for row in ROWS]) == path
    assert objects.hold(ROWS[:-1]) != path
    assert objects.hold([{**ROWS[0], "anchor": "other"}, *ROWS[1:]]) != path


def test_cells_are_what_a_file_would_give() -> None:
    pandas, image = pytest.importorskip("pandas"), pytest.importorskip("PIL.Image")
    frame = pandas.DataFrame(
        {"text": ["a", None, "c"], "score": [1.5, float("nan"), 2.0], "neg": [np.array(["x", "y"]), ["z"], None]}
    )
    rows = [row for _, row in objects.part(objects.hold(frame)).records()]
    assert rows == [
        {"text": "a", "score": 1.5, "neg": ["x", "y"]}, {"text": None, "score": None, "neg": ["z"]},
        {"text": "c", "score": 2.0, "neg": None},
    ]  # fmt: skip
    picture = image.new("RGB", (3, 2), (9, 8, 7))
    row: Any = next(objects.part(objects.hold([{"image": picture, "caption": "a"}])).records())[1]
    assert image.open(io.BytesIO(row["image"])).getpixel((0, 0)) == (9, 8, 7)


def _generator() -> Iterator[dict[str, str]]:
    yield from ROWS


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_generator(), ["it can be read only once", "pass the function"]),
        ([], ["it has no rows"]),
        (5, ["no kind of data that is known", "data (int)", "pass a table"]),
        ([1, 2], ["row 1 is int, not a dict or a text"]),
        ([("a", "b")], ["row 1 is tuple", "pass rows like"]),
        ({"a": ["x"], "b": ["y", "z"]}, ["no table of equally long columns"]),
        ({"a", "b"}, ["no kind of data that is known"]),
    ],
)
def test_other_objects_are_refused_in_one_line(data: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        objects.hold(data)
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line
    assert caught.value.remedy


def test_a_dict_of_splits_is_refused_with_the_way_to_one() -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.DatasetDict({name: datasets.Dataset.from_list(ROWS) for name in ("train", "test")})
    with pytest.raises(DataError, match=r"it has the splits test, train; pass one: data\['train'\]"):
        objects.hold(data)


def test_a_run_without_its_object_is_refused() -> None:
    path = objects.hold(ROWS)
    objects.release(path)
    with pytest.raises(DataError, match=r"the data of this run was a Python object; pass it again: embedkit\.train"):
        opened([{"path": path}], "anchor positive", batch_size=4)


def test_training_on_an_object_is_training_on_its_file_and_resumes(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    import embedkit
    from tests.training import runs

    frame = pandas.DataFrame({"q": [f"question {n}" for n in range(40)], "a": [f"the answer {n}" for n in range(40)]})
    columns = {"q": "anchor", "a": "positive"}
    frame.to_csv(tmp_path / "t.csv", index=False)
    given = runs.recipe(train=runs.SETTINGS | {"save_every": 2, "keep_checkpoints": 2})
    file = {"path": str(tmp_path / "t.csv"), "columns": columns}
    runs.run(tmp_path / "file", given | {"data": {"train": [file]}})
    folder = tmp_path / "memory"
    embedkit.train(given, data=frame, columns=columns, output=folder)
    weights = [runs.checkpoint(tmp_path / name, 4) for name in ("file", "memory")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    shutil.rmtree(folder / "model")
    embedkit.train(given, data=frame.to_dict("records"), columns=columns, output=folder, resume=True)
    resumed = runs.checkpoint(folder, 4)
    assert all((weights[0][name] == resumed[name]).all() for name in resumed)
