"""Files of texts to files of vectors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedkit.errors import DataError, NonFiniteError, UserError
from embedkit.models import encode_file
from embedkit.models.encode import encoding as encoding_module
from embedkit.system.disk import FolderLock
from tests.helpers import tiny

TEXTS = [f"{text} {i % 5}" for i, text in enumerate(t for t in tiny.SENTENCES * 5 if t)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def test_npy_and_parquet(source: Path, tmp_path: Path) -> None:
    model = tiny.text_encoder()
    expected = model.encode(TEXTS)
    result = encode_file(model, source, tmp_path / "v.npy", block_rows=8)
    assert (result.rows, result.dim, result.reused) == (len(TEXTS), 32, 0)
    found = np.load(tmp_path / "v.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    encode_file(model, source, tmp_path / "v.parquet", block_rows=8, truncate_dim=5, prompt="the ")
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "v.parquet")
    assert table["row"].to_pylist() == list(range(len(TEXTS)))
    vectors = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(vectors, model.encode(TEXTS, prompt="the ", truncate_dim=5), atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["texts.txt", "v.npy", "v.parquet"]


def test_a_stopped_run_goes_on(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.text_encoder()
    real, calls = encoding_module.encode, []

    def stop_at_third(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(encoding_module, "encode", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        encode_file(model, source, tmp_path / "v.npy", block_rows=8)
    assert not (tmp_path / "v.npy").exists()
    with pytest.raises(UserError, match="another model or other settings"):
        encode_file(model, source, tmp_path / "v.npy", block_rows=8, normalize=False)
    monkeypatch.setattr(encoding_module, "encode", real)
    result = encode_file(model, source, tmp_path / "v.npy", block_rows=8)
    assert result.reused == 16
    whole = encode_file(model, source, tmp_path / "w.npy", block_rows=8)
    assert whole.reused == 0
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "w.npy").read_bytes()


def test_a_failed_run_leaves_its_folder_free(source: Path, tmp_path: Path) -> None:
    model, target = tiny.text_encoder(), tmp_path / "v.npy"
    with pytest.raises(UserError, match="more than one") as refused:
        encode_file(model, source, target, prompt="{}{}")
    assert not (tmp_path / ".v.npy.parts").exists()  # a refused prompt leaves nothing
    parts = FolderLock(tmp_path / ".v.npy.parts", "wait")
    parts.release()
    (tmp_path / ".v.npy.parts" / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="other settings") as other:
        encode_file(model, source, target)
    # as a notebook keeps the last error, and with it everything that stood in the frames
    assert refused.value is not other.value
    FolderLock(tmp_path / ".v.npy.parts", "wait").release()


def test_changed_texts_are_encoded_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.text_encoder()
    real = encoding_module.encode
    monkeypatch.setattr(
        "embedkit.models.encode.file_encoding.join_blocks", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        encode_file(model, source, tmp_path / "v.npy", block_rows=8)
    monkeypatch.undo()
    changed = ["a big house", *TEXTS[1:]]
    source.write_text("\n".join(changed) + "\n")
    result = encode_file(model, source, tmp_path / "v.npy", block_rows=8)
    assert result.reused == len(TEXTS) - 8
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), model.encode(changed), atol=1e-5)
    assert real is encoding_module.encode


def test_columns(tmp_path: Path) -> None:
    model = tiny.text_encoder()
    path = tmp_path / "rows.csv"
    path.write_text("id,text,note\n1,the dog,x\n2,a man,y\n")
    encode_file(model, path, tmp_path / "a.npy")
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), model.encode(["the dog", "a man"]), atol=1e-6)
    encode_file(model, path, tmp_path / "b.npy", column="note")
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), model.encode(["x", "y"]), atol=1e-6)
    with pytest.raises(DataError, match="no column 'nots'"):
        encode_file(model, path, tmp_path / "c.npy", column="nots")
    path.write_text("id,note\n1,x\n")
    with pytest.raises(DataError, match="which one holds the text"):
        encode_file(model, path, tmp_path / "d.npy")


def test_refusals(source: Path, tmp_path: Path) -> None:
    model = tiny.text_encoder()
    with pytest.raises(UserError, match=r"use \.npy or \.parquet"):
        encode_file(model, source, tmp_path / "v.csv")
    with pytest.raises(UserError, match="folder does not exist"):
        encode_file(model, source, tmp_path / "no" / "v.npy")
    (tmp_path / "v.npy").write_bytes(b"mine")
    with pytest.raises(UserError, match="exists already"):
        encode_file(model, source, tmp_path / "v.npy")
    encode_file(model, source, tmp_path / "v.npy", overwrite=True)
    assert np.load(tmp_path / "v.npy").shape == (len(TEXTS), 32)
    with pytest.raises(DataError, match="gone"):
        encode_file(model, tmp_path / "gone.txt", tmp_path / "w.npy")


def test_bad_rows_are_named(tmp_path: Path) -> None:
    model = tiny.text_encoder()
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a dog"}\n{"text": null}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2, column text: cell is empty"):
        encode_file(model, path, tmp_path / "v.npy", block_rows=1)
    import torch

    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight[model.prepare(["guitar"]).ids[1]] = torch.inf
    path = tmp_path / "t.txt"
    path.write_text("a dog\na man\na guitar\n")
    with pytest.raises(NonFiniteError, match=r"inputs\[2\]"):
        encode_file(model, path, tmp_path / "w.npy", block_rows=2)


def test_two_processes_give_the_same_file(source: Path, tmp_path: Path) -> None:
    model = tiny.text_encoder()
    model.save(tmp_path / "m")
    encode_file(model, source, tmp_path / "one.npy", block_rows=8)
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom embedkit import load\nfrom embedkit.models import encode_file\n"
        "result = encode_file(load(sys.argv[1], device='cpu'), sys.argv[2], sys.argv[3], block_rows=8)\n"
        "assert result.rows == " + str(len(TEXTS))
    )
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "0",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        str(script), str(tmp_path / "m"), str(source), str(tmp_path / "two.npy"),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "two.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()


@pytest.mark.parametrize("content", [None, ""], ids=["missing", "empty"])
def test_an_input_without_rows_is_refused_and_leaves_nothing(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=re.escape(str(file))):
        encode_file(tiny.text_encoder(), file, tmp_path / "v.npy")
    assert [p.name for p in tmp_path.iterdir()] == ([] if content is None else ["texts.txt"])
