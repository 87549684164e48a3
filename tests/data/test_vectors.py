"""Vectors as data: every format gives the same rows, by column as row by row, and bad ones are told in a line."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from safetensors.numpy import save_file

from embedkit.data import TrainingRows
from embedkit.data.datasets.in_memory import HeldRows
from embedkit.data.vectors import chunked
from embedkit.data.vectors.arrays import cell_of, npy_of, npz_of, records_of, safetensors_arrays
from embedkit.data.vectors.chunked import Chunked, hdf5_arrays, zarr_arrays
from embedkit.data.vectors.columnar import column_tables
from embedkit.data.vectors.values import as_float32
from embedkit.errors import DataError, MissingExtraError
from tests.data.helpers import opened

ANCHORS = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
POSITIVES = np.random.default_rng(1).standard_normal((9, 3)).astype(np.float32)
LABELS = np.arange(9) % 3
COLUMNS = {"anchor": ANCHORS, "positive": POSITIVES, "label": LABELS}


def _table(fixed: bool) -> pa.Table:
    def vectors(array: np.ndarray) -> pa.Array:
        flat = pa.array(array.reshape(-1), pa.float32())
        width = array.shape[1]
        if fixed:
            return pa.FixedSizeListArray.from_arrays(flat, width)
        return pa.ListArray.from_arrays(pa.array(np.arange(len(array) + 1) * width, pa.int32()), flat)

    return pa.table({"anchor": vectors(ANCHORS), "positive": vectors(POSITIVES), "label": LABELS})


def _arrow(path: str) -> None:
    table = _table(True)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def _jsonl(path: str) -> None:
    rows = [{name: column[i].tolist() for name, column in COLUMNS.items()} for i in range(9)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _hdf5(path: str, **settings: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, column in COLUMNS.items():
            file.create_dataset(name, data=column, **settings)


def _zarr(path: str, version: Literal[2, 3]) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for name, column in COLUMNS.items():
        group.create_array(name, data=np.asarray(column), chunks=(4, *column.shape[1:]))


WRITERS: dict[str, Callable[[str], Any]] = {
    "rows.npz": lambda path: np.savez(path, **COLUMNS),
    "packed.npz": lambda path: np.savez_compressed(path, **COLUMNS),
    "rows.safetensors": lambda path: save_file(COLUMNS, path),
    "fixed.parquet": lambda path: pq.write_table(_table(True), path),
    "lists.parquet": lambda path: pq.write_table(_table(False), path),
    "rows.arrow": _arrow,
    "rows.jsonl": _jsonl,
    "rows.h5": _hdf5,
    "packed.hdf5": lambda path: _hdf5(path, chunks=True, compression="gzip"),
    "three.zarr": lambda path: _zarr(path, 3),
    "two.zarr": lambda path: _zarr(path, 2),
}


def _contents(rows: TrainingRows) -> list[Any]:
    return [
        (row["anchor"].tolist(), row["positive"].tolist(), row["label"])
        for batch in rows.batches(0) for row in batch.rows
    ]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, write in WRITERS.items():
        write(name)
    return tmp_path


def test_every_format_gives_the_same_batches_and_fingerprint(files: Path) -> None:
    found = [opened([{"path": name}], "anchor positive", "label", batch_size=3) for name in WRITERS]
    first = _contents(found[0])
    order = [row[2] for row in first]
    assert sorted(order) == sorted(LABELS.tolist()) and len(first) == 9
    assert all(np.isin(row[0], ANCHORS).all() and np.isin(row[1], POSITIVES).all() for row in first)
    for rows in found[1:]:
        assert _contents(rows) == first
        assert rows.fingerprint == found[0].fingerprint
        assert rows.widths == {"anchor": 4, "positive": 3}
        assert rows.where(4).endswith(":5")


@pytest.mark.parametrize("path", ["more.npz", "more.h5", "more.zarr"])
def test_arrays_of_other_lengths_are_left_out_and_told(files: Path, path: str) -> None:
    more = {"vocabulary": np.arange(200), **COLUMNS, "mean": np.zeros(4), "none": np.zeros((0, 2))}
    if path.endswith("npz"):
        np.savez(path, **more)
    elif path.endswith("h5"):
        with h5py.File(path, "w") as file:
            file.update(more)
    else:
        zarr.save_group(path, **more)
    rows = opened([{"path": path}], "anchor positive", "label", batch_size=9)
    assert rows.num_rows == 9
    assert sorted(note for note in rows.notes if "not used" in note) == sorted(
        f"{path}: array {name!r} is not used: it has {count} rows, those in use 9"
        for name, count in (("vocabulary", 200), ("mean", 4), ("none", 0))
    )


def test_arrays_of_other_lengths_beside_a_table(files: Path) -> None:
    np.savez("more.npz", id=np.arange(9), vector=ANCHORS, mean=np.zeros(200))
    Path("ids.csv").write_text("q\n" + "".join(f"{8 - i}\n" for i in range(9)))
    for entry in ({"path": "more.npz", "on": "q"}, "more.npz"):
        train = [{"path": "ids.csv", "beside": [entry], "columns": {"vector": "anchor"}}]
        rows = opened(train, "anchor", batch_size=9)
        assert any("array 'mean' is not used: it has 200 rows, those in use 9" in note for note in rows.notes)
        first = rows.block(range(1)).rows[0]["anchor"]
        np.testing.assert_array_equal(first, ANCHORS[8] if isinstance(entry, dict) else ANCHORS[0])


@pytest.mark.parametrize(("path", "by_column"), [("rows.npz", True), ("fixed.parquet", True), ("rows.jsonl", False)])
def test_arrays_are_read_by_column(files: Path, path: str, by_column: bool) -> None:
    for settings in ({}, {"limit": 4}):
        rows = opened([{"path": path, **settings}], "anchor positive", "label", batch_size=2)
        assert (column_tables(rows._sources[0]) is not None) == by_column
        assert rows.num_rows == settings.get("limit", 9)
    filtered = opened([{"path": path, "where": {"label": 1}}], "anchor positive", "label", batch_size=2)
    assert column_tables(filtered._sources[0]) is None and filtered.num_rows == 3


def test_files_beside_each_other_by_order_and_by_id(files: Path) -> None:
    np.save("queries.npy", ANCHORS)
    np.save("answers.npy", POSITIVES)
    mapping = {"queries": "anchor", "answers": "positive"}
    by_order = opened([{"path": "queries.npy", "beside": ["answers.npy"], "columns": mapping}], "anchor positive")
    order = np.random.default_rng(2).permutation(9)
    np.savez("a.npz", id=order, vector=ANCHORS[order])
    np.savez("b.npz", id=np.array([f"d{i}" for i in order]), vector=POSITIVES[order])
    Path("pairs.tsv").write_text("q\td\n" + "".join(f"{i}\td{i}\n" for i in range(9)))
    beside = [
        {"path": f"{file}.npz", "on": column, "names": {"vector": name}}
        for file, column, name in (("a", "q", "one"), ("b", "d", "two"))
    ]
    by_id = opened(
        [{"path": "pairs.tsv", "beside": beside, "columns": {"one": "anchor", "two": "positive"}}], "anchor positive"
    )
    assert by_id.fingerprint == by_order.fingerprint
    assert any("anchor is a vector" in note for note in by_id.notes)


def test_hard_negatives_are_columns_or_an_array_of_three_axes(files: Path) -> None:
    three = np.stack([POSITIVES, POSITIVES + 1], axis=1)
    np.savez("slots.npz", anchor=ANCHORS, negative_1=three[:, 0], negative_2=three[:, 1])
    np.savez("cube.npz", anchor=ANCHORS, negatives=three)
    found = [opened([{"path": path}], "anchor", "negatives", batch_size=9) for path in ("slots.npz", "cube.npz")]
    assert found[0].fingerprint == found[1].fingerprint
    [batch] = found[0].batches(0)
    for row in batch.rows:
        [place] = np.flatnonzero((row["anchor"] == ANCHORS).all(axis=1))
        assert np.array_equal(np.stack(row["negatives"]), three[place])


def test_equal_vectors_are_one_input_for_samplers_and_counts(files: Path) -> None:
    np.savez("twice.npz", anchor=ANCHORS[[0, 1, 0, 2, 3, 0, 4, 5]], positive=POSITIVES[:8])
    rows = opened([{"path": "twice.npz"}], "anchor positive", batch_size=2, sampler="no-duplicates")
    assert rows.summary()["duplicates"]["anchors"] == 2
    for batch in rows.batches(0):
        assert not np.array_equal(batch.rows[0]["anchor"], batch.rows[1]["anchor"])


def test_types_and_byte_orders_become_float32(files: Path) -> None:
    values = np.arange(12.0).reshape(3, 4)
    for dtype in ("<f8", ">f8", ">f4", "<f2", "<i8", "u1"):
        np.save("x.npy", values.astype(dtype))
        rows = opened([{"path": "x.npy"}], batch_size=3)
        [batch] = rows.batches(0)
        assert batch.rows.column("anchor").array.dtype == np.float32  # type: ignore[attr-defined]
        assert sorted(row["anchor"].tolist() for row in batch.rows) == values.tolist()
    np.save("x.npy", np.asfortranarray(values))
    assert opened([{"path": "x.npy"}], batch_size=3).num_rows == 3
    header = json.dumps({"v": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}}).encode()
    bits = (np.array([[1.0, -2.5]], np.float32).view(np.uint32) >> 16).astype("<u2")
    Path("b.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    assert safetensors_arrays(Path("b.safetensors"))["v"].take(slice(0, 1)).tolist() == [[1.0, -2.5]]


def _cut(path: str, array: np.ndarray) -> None:
    np.save(path, array)
    Path(path).write_bytes(Path(path).read_bytes()[:-8])


def _nan(row: int) -> np.ndarray:
    array = ANCHORS.copy()
    array[row, 2] = np.nan
    return array


BAD: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "nan late": (lambda: np.save("x.npy", np.concatenate([np.ones((200, 4), np.float32), _nan(7)])), {},
                 r"x\.npy:208 column 'x': number 2 of the vector is nan"),
    "nan early": (lambda: np.save("x.npy", _nan(1)), {}, r"x\.npy:2 column 'x': number 2 of the vector is nan"),
    "beyond float32": (lambda: np.save("x.npy", np.full((2, 2), 1e39)), {}, r"x\.npy:1 .*1e\+39, beyond the range"),
    "large integers": (lambda: np.save("x.npy", np.full((2, 2), 2**24 + 1)), {}, r"x\.npy:1 .*16777217, which float32"),
    "objects": (lambda: np.save("x.npy", np.array([{}, 1], object), allow_pickle=True), {}, r"x\.npy: holds Python"),
    "truncated": (lambda: _cut("x.npy", ANCHORS), {}, r"x\.npy: is cut off: .* 9 rows, and there are bytes for 8"),
    "no npy": (lambda: Path("x.npy").write_bytes(b"nothing of the kind"), {}, r"x\.npy: not a readable npy file"),
    "unequal lists": (lambda: Path("x.jsonl").write_text('{"anchor": [1.0, 2.0]}\n{"anchor": [1.0, 2.0, 3.0]}\n'), {},
                      r"x\.jsonl:2 column 'anchor': the vector has 3 numbers, those before it 2"),
    "unequal arrays": (lambda: np.savez("x.npz", anchor=ANCHORS, label=LABELS[:4]), {}, r"x\.npz: array 'label' has 4"),
    "complex vectors": (lambda: np.savez("x.npz", anchor=ANCHORS * 1j), {}, r"x\.npz:1 column 'anchor': an array of "
                        r"complex64 \(4,\) is neither a text nor a vector; save the real and the imaginary parts"),
    "texts in rows": (lambda: np.savez("x.npz", anchor=ANCHORS.astype(str)), {}, r"expected text, found list of 4, \["),
    "objects in npz": (lambda: np.savez("x.npz", anchor=np.array([{}], object)), {}, r"x\.npz anchor: holds Python"),
    "safetensors": (lambda: Path("x.safetensors").write_bytes(b"\xff" * 20), {}, r"not a readable safetensors"),
    "shorter beside": (lambda: (np.save("x.npy", ANCHORS), np.save("y.npy", POSITIVES[:4])),
                       {"beside": ["y.npy"], "columns": {"x": "anchor", "y": "positive"}}, r"which has 4"),
    "longer beside": (lambda: (np.save("x.npy", ANCHORS[:4]), np.save("y.npy", POSITIVES)),
                      {"beside": ["y.npy"], "columns": {"x": "anchor", "y": "positive"}}, r"4 rows, and y\.npy .* 9"),
    "unknown id": (lambda: (Path("x.csv").write_text("q\n5\n77\n"), np.savez("y.npz", id=np.arange(9), v=ANCHORS)),
                   {"beside": [{"path": "y.npz", "on": "q"}], "columns": {"v": "anchor"}}, r"x\.csv:3.*'77' is no id"),
    "id twice": (lambda: (Path("x.csv").write_text("q\n5\n"), np.savez("y.npz", id=np.zeros(9, int), v=ANCHORS)),
                 {"beside": [{"path": "y.npz", "on": "q"}], "columns": {"v": "anchor"}}, r"rows 1 and 2"),
    "no such kind": (lambda: np.save("x.npy", ANCHORS), {"kinds": {"anchor": "vektor"}}, r"did you mean 'vector'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    make, settings, message = BAD[name]
    make()
    path = next(path.name for path in sorted(tmp_path.iterdir()) if path.name.startswith("x."))
    with pytest.raises(DataError, match=message) as caught:
        opened([{"path": path, **settings}], "anchor", "positive label", batch_size=2)
    assert "\n" not in str(caught.value)


def test_bad_vectors_are_skipped_and_counted_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", _nan(3))
    rows = opened([{"path": "x.npy"}], batch_size=2, on_bad_row="skip")
    assert rows.num_rows == 8 and rows.summary()["dropped"] == {"bad vector": 1}


def test_sources_of_two_kinds_or_sizes_are_refused(files: Path) -> None:
    Path("t.csv").write_text("anchor\na text\n")
    np.save("anchor.npy", POSITIVES)
    with pytest.raises(DataError, match="anchor is a text here, and a vector in"):
        opened([{"path": "rows.npz"}, {"path": "t.csv"}], batch_size=2)
    with pytest.raises(DataError, match="have 3 numbers, those of rows.npz 4"):
        opened([{"path": "rows.npz"}, {"path": "anchor.npy"}], batch_size=2)


def test_streams_of_vectors(files: Path) -> None:
    rows = opened([{"path": "rows.npz", "stream": True}], "anchor positive", "label", batch_size=3)
    assert sorted(row[2] for row in _contents(rows)) == sorted(LABELS.tolist())


def test_numbers_of_16_bits_become_float32_of_the_same_value() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    for values in (every, finite, finite[::2], finite.reshape(-1, 2)[:, 1]):
        assert np.array_equal(as_float32(values), values.astype(np.float32), equal_nan=True)
    assert np.array_equal(np.signbit(as_float32(finite)), np.signbit(finite))
    assert as_float32(np.zeros((0, 3), np.float16)).shape == (0, 3)


def test_arrays_of_hdf5_are_mapped_where_they_lie_in_one_piece_and_read_by_chunk_elsewhere(files: Path) -> None:
    assert isinstance(hdf5_arrays(Path("rows.h5"))["anchor"].array, np.ndarray)
    rows = np.array([7, 0, 8, 0])
    for arrays in (hdf5_arrays(Path("packed.hdf5")), zarr_arrays(Path("two.zarr"))):
        assert isinstance(arrays["anchor"].array, Chunked)
        assert np.array_equal(arrays["anchor"].take(rows), ANCHORS[rows])
        assert np.array_equal(arrays["anchor"].first(3).take(slice(0, 3)), ANCHORS[:3])


def test_vectors_in_chunks_that_memory_does_not_hold_stay_in_their_file(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = opened([{"path": "two.zarr"}], "anchor positive", "label", batch_size=3, shuffle="blocks")
    monkeypatch.setattr(chunked, "available_bytes", lambda: 0)
    for path in ("two.zarr", "packed.hdf5"):
        rows = opened([{"path": path}], "anchor positive", "label", batch_size=3, shuffle="blocks")
        assert isinstance(rows, HeldRows) and rows._vectors["anchor"].mapped_bytes == ANCHORS.nbytes
        assert _contents(rows) == _contents(whole)
        assert rows.fingerprint == whole.fingerprint


def test_rows_of_chunks_that_are_asked_for_soon_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "available_bytes", lambda: 2**30)
    source = np.arange(24.0).reshape(12, 2)
    array = Chunked(source.copy(), rows=4)
    array.ahead(np.array([9, 1, 5]))
    array._source[:] = -1.0
    assert np.array_equal(array.take(np.array([5, 9])), source[[5, 9]])
    assert array.take(np.array([0, 5])).tolist() == [[-1.0, -1.0]] * 2
    array.ahead(np.array([0]))
    array.ahead(np.array([2]))
    assert array.take(np.array([5])).tolist() == [[-1.0, -1.0]]


def test_ids_and_groups_of_hdf5(files: Path) -> None:
    with h5py.File("ids.h5", "w") as file:
        file["id"] = [f"d{i}" for i in range(9)]
        file["deep/vector"] = ANCHORS
    beside = [{"path": "ids.h5", "on": "d", "id": "id", "names": {"deep/vector": "one"}}]
    Path("ids.tsv").write_text("d\tnumber\n" + "".join(f"d{i}\t{i}\n" for i in range(9)))
    rows = opened([{"path": "ids.tsv", "beside": beside, "columns": {"one": "anchor", "number": "label"}}],
                  "anchor", "label", batch_size=9)  # fmt: skip
    [batch] = rows.batches(0)
    assert all(np.array_equal(row["anchor"], ANCHORS[row["label"]]) for row in batch.rows)


def test_texts_of_hdf5_and_zarr_take_the_memory_that_they_need(files: Path) -> None:
    texts = ["a", "b" * 1000]
    with h5py.File("texts.h5", "w") as file:
        file["text"] = texts
    group = zarr.open_group("texts.zarr", mode="w")
    group["text"] = np.array(texts)
    for arrays in (hdf5_arrays(Path("texts.h5")), zarr_arrays(Path("texts.zarr"))):
        assert [row["text"] for _, row in records_of(arrays)] == texts
        assert type(cell_of(arrays["text"], 0)) is str
        assert arrays["text"].array.nbytes < 100


def _bad_hdf5(kind: str, path: Path) -> None:
    with h5py.File(path, "w") as file:
        if kind == "objects":
            file.create_dataset("vector", (2,), h5py.vlen_dtype(np.float32))
        elif kind == "records":
            file["vector"] = np.zeros(2, [("a", "f4")])
        elif kind == "elsewhere":
            (path.parent / "raw").write_bytes(bytes(64))
            file.create_dataset("vector", (2, 2), np.float32, external=[(str(path.parent / "raw"), 0, 64)])
        elif kind == "bomb":
            file.create_dataset("vector", (2**20, 2**10), np.float32, chunks=(16, 2**10))
        else:
            file["vector"] = np.array([[1.0, 2.0], [np.nan, 1.0]])
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("objects", "vector: holds arrays of any length or Python objects"), ("records", "vector: holds records"),
        ("elsewhere", "keeps its numbers in another file"), ("bomb", "decompression bomb"),
        ("cut", "not a readable HDF5 file"), ("nan", "bad.h5:2 column 'vector': number 0 of the vector is nan"),
    ],
)  # fmt: skip
def test_a_bad_hdf5_file_is_told_in_a_line(kind: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.h5"
    _bad_hdf5(kind, path)
    with pytest.raises(DataError) as caught:
        opened([{"path": str(path), "columns": {"vector": "anchor"}}], batch_size=2)
    assert line in str(caught.value)


def test_nothing_of_zarr_is_unpickled_and_a_damaged_chunk_is_named(files: Path) -> None:
    settings = json.loads(Path("two.zarr/anchor/.zarray").read_text())
    Path("two.zarr/anchor/.zarray").write_text(json.dumps({**settings, "filters": [{"id": "pickle"}]}))
    with pytest.raises(DataError, match="the codec 'pickle' is not read"):
        opened([{"path": "two.zarr"}], "anchor")
    shards = json.loads(Path("three.zarr/label/zarr.json").read_text())
    for inner, line in (({"index_codecs": [{"name": "pickle"}]}, "the codec 'pickle' is not read"), (["x"], "Zarr")):
        codec = {"name": "sharding_indexed", "configuration": inner}
        Path("three.zarr/label/zarr.json").write_text(json.dumps({**shards, "codecs": [codec]}))
        with pytest.raises(DataError, match=line):
            zarr_arrays(Path("three.zarr"))
    Path("three.zarr/label/zarr.json").write_text(json.dumps(shards))
    Path("three.zarr/anchor/c/1/0").write_bytes(b"damage")
    with pytest.raises(DataError, match="three.zarr anchor, rows from"):
        opened([{"path": "three.zarr"}], "anchor positive", "label", batch_size=3)


def test_what_is_not_installed_is_told_with_the_command(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, path in (("h5py", "rows.h5"), ("zarr", "three.zarr")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=r'pip install "embedkit\[vectors\]"'):
            opened([{"path": path}], "anchor positive")


def test_damage_in_npz_and_npy_is_a_line() -> None:
    content = io.BytesIO()
    np.savez_compressed(content, v=np.arange(800.0))
    broken, locked = bytearray(content.getvalue()), bytearray(content.getvalue())
    broken[120:160] = bytes(40)
    for start in (6, locked.rindex(b"PK\1\2") + 8):
        locked[start] |= 1  # a password is needed
    for file in (broken, locked):
        with pytest.raises(DataError, match="a: not a readable npz file"):
            npz_of(io.BytesIO(bytes(file)), "a")
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"shape": (-1, -1), "fortran_order": False, "descr": "<f8"})
    with pytest.raises(DataError, match="a side below 0"):
        npy_of(io.BytesIO(content.getvalue() + bytes(8)), "a")


def test_arrays_in_shards(tmp_path: Path) -> None:
    def member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))

    def saved(array: np.ndarray) -> bytes:
        content = io.BytesIO()
        np.save(content, array)
        return content.getvalue()

    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for row in range(9):
            pack = io.BytesIO()
            np.savez(pack, positive=POSITIVES[row])
            member(tar, f"{row}.npy", saved(ANCHORS[row]))
            member(tar, f"{row}.npz", pack.getvalue())
            member(tar, f"{row}.cls", str(row).encode())
    source = {
        "path": str(tmp_path / "0.tar"),
        "columns": {"vector": "anchor", "positive": "positive", "label": "label"},
    }
    for settings in ({}, {"stream": True}):
        rows = opened([source | settings], "anchor positive", "label", batch_size=9)
        batch = next(rows.batches(0))
        assert all(np.array_equal(row["anchor"], ANCHORS[row["label"]]) for row in batch.rows)
        assert all(np.array_equal(row["positive"], POSITIVES[row["label"]]) for row in batch.rows)
    with tarfile.open(tmp_path / "1.tar", "w") as tar:
        member(tar, "a.npy", saved(ANCHORS[0])[:-3])
    with pytest.raises(DataError, match=r"1.tar:1 \(a\).*cut off"):
        opened([{"path": str(tmp_path / "1.tar"), "columns": {"vector": "anchor"}}], batch_size=1)
