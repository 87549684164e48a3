"""Binary sources: parquet, folders of ``datasets.save_to_disk``, and the layout of a hub data set; no network."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedkit.data import read_rows
from embedkit.errors import DataError
from tests.data.helpers import opened

ROWS = [
    {"anchor": "one", "negatives": ["x", "y"], "label": 1, "image": b"\x89"},
    {"anchor": "two", "negatives": [], "label": 2, "image": None},
]


def test_parquet_keeps_types(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    assert list(read_rows(path)) == ROWS
    packed = tmp_path / "t.parquet.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_rows(packed)) == ROWS


def test_parquet_rows_are_numbered_over_batches(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(3000)]
    texts[2500] = ""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": texts}), path)
    with pytest.raises(DataError, match=r"t\.parquet:2501 column 'text': the text is empty"):
        opened([{"path": str(path)}])


def test_parquet_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(DataError, match=r"t\.parquet: column 'text' occurs twice in the header; rename"):
        list(read_rows(path))


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"caf\xe9"], pa.binary())
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 2, raw.buffers())}), path)
    with pytest.raises(DataError, match=r"t\.parquet: not a readable parquet file"):
        list(read_rows(path))


def test_numbers_in_a_text_column_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"anchor": [1, 2]}), path)
    with pytest.raises(DataError, match=r"t\.parquet:1 column 'anchor': expected text, found int 1"):
        opened([{"path": str(path)}], batch_size=1)


def _saved(folder: Path, rows: list[dict[str, Any]]) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(str(folder))


def test_saved_data_set_folder(tmp_path: Path) -> None:
    _saved(tmp_path / "saved", ROWS)
    assert list(read_rows(tmp_path / "saved")) == ROWS
    rows = opened([{"path": str(tmp_path / "saved")}], "anchor negatives label", batch_size=1, on_bad_row="skip")
    assert rows.num_rows == 1
    assert rows.summary()["dropped"] == {"no negatives": 1}


def test_saved_data_set_with_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    splits = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    assert len(list(read_rows(tmp_path / "saved", split="train"))) == 2
    assert len(list(read_rows(tmp_path / "saved", split="test"))) == 1
    with pytest.raises(DataError, match="it has the splits test, train"):
        list(read_rows(tmp_path / "saved"))


def test_damaged_saved_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    _saved(folder, ROWS * 50)
    data = next(folder.glob("*.arrow"))
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a readable arrow file"):
        list(read_rows(folder))
    data.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        list(read_rows(folder))
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": "../../etc/passwd"}]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="names a file outside the folder"):
        list(read_rows(folder))
    (folder / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state\.json: not readable JSON"):
        list(read_rows(folder))


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local folder laid out as a data set on the hub, with two configurations."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub-set"
    (folder / "pairs").mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: pairs\n  data_files:\n  - split: train\n    path: pairs/train-*\n"
        "  - split: test\n    path: pairs/test-*\n- config_name: single\n  data_files: single/*\n---\n# A set\n"
    )
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "pairs" / "train-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), folder / "pairs" / "test-00000-of-00001.parquet")
    (folder / "single").mkdir()
    pq.write_table(pa.table({"text": ["001"]}), folder / "single" / "train.parquet")
    return folder


def test_hub_layout(hub_folder: Path) -> None:
    assert list(read_rows(hub_folder, "hub", name="pairs", split="train")) == ROWS
    assert len(list(read_rows(hub_folder, "hub", name="pairs", split="test"))) == 1
    assert list(read_rows(hub_folder, "hub", name="single")) == [{"text": "001"}]
    with pytest.raises(DataError, match="it has the splits test, train"):
        list(read_rows(hub_folder, "hub", name="pairs"))
    with pytest.raises(DataError, match="cannot be loaded"):
        list(read_rows(hub_folder, "hub", name="no-such"))


def test_hub_rows_can_be_trained_on(hub_folder: Path) -> None:
    for stream in (False, True):
        source = {"path": hub_folder.name, "format": "hub", "name": "pairs", "split": "train", "stream": stream}
        rows = opened([source], "anchor label", batch_size=2, base_dir=hub_folder.parent)
        assert sorted(row["label"] for row in next(rows.batches(0)).rows) == [1, 2]


def test_hub_id_without_network_is_refused_in_one_line() -> None:
    with pytest.raises(DataError) as caught:
        opened([{"path": "no-such-owner/no-such-set"}])
    assert "no-such-owner/no-such-set: cannot be loaded" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"no such file or folder"):
        opened([{"path": "no-such-owner/no-such-set.tsv"}])
