"""Sequences of vectors as data: every format gives the same rows, without padding; bad ones are told in a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from embedkit.data.vectors.arrays import npz_arrays
from embedkit.data.vectors.columnar import column_tables
from embedkit.data.vectors.ragged import RaggedPiece
from embedkit.data.vectors.sequences import Sequences
from embedkit.errors import DataError
from tests.data.helpers import opened

LENGTHS = np.array([3, 1, 5, 2, 4, 3])
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
STEPS = np.random.default_rng(0).standard_normal((18, 2)).astype(np.float32)
LABELS = np.arange(6) % 2
ROWS = [STEPS[OFFSETS[i] : OFFSETS[i + 1]] for i in range(6)]
ARRAYS = {"anchor": STEPS, "anchor_offsets": OFFSETS, "label": LABELS}


def _table(fixed: bool, rows: slice = slice(0, 6)) -> pa.Table:
    if fixed:
        steps = pa.FixedSizeListArray.from_arrays(pa.array(STEPS.reshape(-1)), 2)
    else:
        steps = pa.ListArray.from_arrays(pa.array(np.arange(19) * 2, pa.int32()), pa.array(STEPS.reshape(-1)))
    lists = pa.ListArray.from_arrays(pa.array(OFFSETS, pa.int32()), steps)
    return pa.table({"anchor": lists, "label": LABELS}).slice(rows.start, rows.stop - rows.start)


def _arrow(path: str) -> None:
    table = _table(True)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def _jsonl(path: str) -> None:
    rows = ({"anchor": row.tolist(), "label": int(label)} for row, label in zip(ROWS, LABELS, strict=True))
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


WRITERS: dict[str, Callable[[str], Any]] = {
    "rows.npz": lambda path: np.savez(path, **ARRAYS),
    "packed.npz": lambda path: np.savez_compressed(path, **ARRAYS),
    "big.npz": lambda path: np.savez(path, **{**ARRAYS, "anchor": STEPS.astype(">f8")}),
    "rows.safetensors": lambda path: save_file(ARRAYS, path),
    "fixed.parquet": lambda path: pq.write_table(_table(True), path),
    "lists.parquet": lambda path: pq.write_table(_table(False), path),
    "rows.arrow": _arrow,
    "rows.jsonl": _jsonl,
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, write in WRITERS.items():
        write(name)
    return tmp_path


def _contents(rows: Any) -> list[Any]:
    return [(row["anchor"].tolist(), row["label"]) for batch in rows.batches(0) for row in batch.rows]


def test_every_format_gives_the_same_batches_and_fingerprint(files: Path) -> None:
    found = [opened([{"path": name}], "anchor", "label", batch_size=2) for name in WRITERS]
    first = _contents(found[0])
    assert sorted(first) == sorted((row.tolist(), int(label)) for row, label in zip(ROWS, LABELS, strict=True))
    for name, rows in zip(WRITERS, found, strict=True):
        assert _contents(rows) == first, name
        assert rows.fingerprint == found[0].fingerprint and rows.widths == {"anchor": 2}, name
        assert rows.kinds == {"anchor": "sequence"}
        assert (column_tables(rows._sources[0]) is not None) == (name != "rows.jsonl")
    assert np.array_equal(np.concatenate(list(found[0].vectors("anchor"))), STEPS)


def test_steps_stay_in_the_file_until_a_batch_asks_for_them(files: Path) -> None:
    array = npz_arrays(Path("rows.npz"))["anchor"]
    assert isinstance(array, np.memmap) or isinstance(array.base, np.memmap)
    rows = opened([{"path": "rows.npz"}], "anchor", "label", batch_size=2)
    piece = rows._vectors["anchor"].pieces[0]  # type: ignore[attr-defined]
    base = piece.array
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(piece, RaggedPiece) and isinstance(base, np.memmap)
    block = next(iter(rows.batches(0))).rows.column("anchor")  # type: ignore[attr-defined]
    assert isinstance(block, Sequences) and len(block.array) == block.lengths.sum()


def test_a_slice_of_a_table_and_a_limit_and_a_filter(files: Path) -> None:
    pq.write_table(_table(True, slice(2, 5)), "part.parquet")
    assert [
        row for row, _ in sorted(_contents(opened([{"path": "part.parquet"}], "anchor", "label", batch_size=1)))
    ] == sorted(row.tolist() for row in ROWS[2:5])
    limited = opened([{"path": "rows.npz", "limit": 4}], "anchor", "label", batch_size=2)
    filtered = opened([{"path": "rows.npz", "where": {"label": 1}}], "anchor", "label", batch_size=1)
    assert limited.num_rows == 4 and filtered.num_rows == 3
    assert sorted(_contents(filtered)) == sorted((ROWS[i].tolist(), 1) for i in (1, 3, 5))


def test_series_of_single_numbers_are_declared_or_have_three_axes(files: Path) -> None:
    even = np.arange(20, dtype=np.float64).reshape(4, 5)
    np.save("even.npy", even)
    np.save("deep.npy", even[:, :, None])
    lists = pa.ListArray.from_arrays(pa.array(OFFSETS, pa.int32()), pa.array(STEPS[:, 0]))
    pq.write_table(pa.table({"series": lists}), "ragged.parquet")
    np.savez("flat.npz", series=STEPS[:, 0], series_offsets=OFFSETS)
    declared = {"kinds": {"anchor": "sequence"}}
    one = opened([{"path": "even.npy", "columns": {"even": "anchor"}, **declared}], batch_size=2)
    two = opened([{"path": "deep.npy", "columns": {"deep": "anchor"}}], batch_size=2)
    assert one.fingerprint == two.fingerprint and one.widths == {"anchor": 1}
    parquet = opened([{"path": "ragged.parquet", "columns": {"series": "anchor"}, **declared}], batch_size=2)
    npz = opened([{"path": "flat.npz", "columns": {"series": "anchor"}}], batch_size=2)
    assert parquet.fingerprint == npz.fingerprint and column_tables(parquet._sources[0]) is not None
    undeclared = opened([{"path": "even.npy", "columns": {"even": "anchor"}}], batch_size=2)
    assert undeclared.kinds == {"anchor": "vector"}


def _savez(**arrays: Any) -> None:
    np.savez("bad.npz", **{**ARRAYS, **arrays})


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "NaN": (lambda: _savez(anchor=np.where(np.arange(36).reshape(18, 2) == 17, np.nan, STEPS)),
            r"bad.npz:3 column 'anchor': step 4: number 1 of the vector is nan"),
    "overflow": (lambda: _savez(anchor=np.where(np.arange(18)[:, None] == 3, 1e60, STEPS.astype(float))),
                 r"bad.npz:2 column 'anchor': step 0: number 0 of the vector is 1e\+60, beyond the range"),
    "large integer": (lambda: _savez(anchor=np.full((18, 2), 2**30 + 1)),
                      r"bad.npz:1 column 'anchor': step 0: number 0 .* which float32 cannot hold exactly"),
    "no steps": (lambda: _savez(anchor_offsets=np.array([0, 3, 3, 9, 11, 15, 18])),
                 r"bad.npz:2 column 'anchor': the sequence has no steps"),
    "falling offsets": (lambda: _savez(anchor_offsets=np.array([0, 3, 2, 9, 11, 15, 18])),
                        r"bad.npz: 'anchor_offsets' decreases behind sequence 2"),
    "short offsets": (lambda: _savez(anchor_offsets=np.array([0, 3, 4, 9, 11, 15, 17])),
                      r"bad.npz: 'anchor_offsets' goes from 0 to 17, and 'anchor' has 18 steps"),
    "float offsets": (lambda: _savez(anchor_offsets=OFFSETS.astype(float)), r"float64 \(7,\), no whole numbers"),
    "labels of another length": (lambda: _savez(label=np.arange(5)), r"bad.npz: array 'label' has 5 rows and 'anchor'"),
    "Python objects": (lambda: _savez(anchor=np.array([row.tolist() for row in ROWS], dtype=object)),
                       r"bad.npz anchor: holds Python objects, which only a pickle can store"),
    "cut off": (lambda: (_savez(), Path("bad.npz").write_bytes(Path("bad.npz").read_bytes()[:300])),
                r"bad.npz: not a readable npz file"),
    "unequal steps": (lambda: Path("bad.jsonl").write_text(
        json.dumps({"anchor": [[1.0, 2.0], [3.0, 4.0]], "label": 0}) + "\n"
        + json.dumps({"anchor": [[1.0, 2.0], [3.0]], "label": 1}) + "\n"),
        r"bad.jsonl:2 column 'anchor': steps of 1 and of 2 numbers"),
    "another width": (lambda: Path("bad.jsonl").write_text(
        json.dumps({"anchor": [[1.0, 2.0], [3.0, 4.0]], "label": 0}) + "\n"
        + json.dumps({"anchor": [[1.0], [3.0]], "label": 1}) + "\n"),
        r"bad.jsonl:2 column 'anchor': the steps of the sequence have 1 number, those before it 2"),
    "an empty list": (lambda: pq.write_table(pa.table({"anchor": [[[1.0, 2.0]], []], "label": [0, 1]}), "bad.parquet"),
                      r"bad.parquet:2 column 'anchor': the sequence has no steps"),
    "a null step": (lambda: pq.write_table(pa.table({"anchor": [[[1.0, 2.0]], [[1.0, None]]], "label": [0, 1]}),
                                           "bad.parquet"), r"bad.parquet:2 column 'anchor'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_told_with_file_and_row(files: Path, case: str) -> None:
    write, words = BAD[case]
    write()
    [path] = Path().glob("bad.*")
    with pytest.raises(DataError, match=words):
        opened([{"path": path.name, "kinds": {"anchor": "sequence"}}], "anchor", "label", batch_size=2)


def test_a_cut_npy_and_a_second_source_of_another_width(files: Path) -> None:
    np.save("cut.npy", np.zeros((4, 5, 2)))
    Path("cut.npy").write_bytes(Path("cut.npy").read_bytes()[:-81])
    with pytest.raises(DataError, match=r"cut.npy: is cut off: its header speaks of 4 rows, and there are bytes for 2"):
        opened([{"path": "cut.npy", "columns": {"cut": "anchor"}}], batch_size=2)
    np.savez("wide.npz", anchor=np.zeros((4, 5, 3)), label=LABELS[:4])
    with pytest.raises(DataError, match=r"wide.npz.*have 3 numbers, those of rows.npz 2"):
        opened([{"path": "rows.npz"}, {"path": "wide.npz"}], "anchor", "label", batch_size=2)
