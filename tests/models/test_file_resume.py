"""encode_file: a stopped run goes on, whatever it left behind; images, mixed rows, and what belongs to another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkit.errors import DataError, UserError
from embedkit.models import encode_file
from embedkit.models.encode import file_encoding
from tests.helpers import dual, tiny

TEXTS = [f"{word} dog {number}" for number in range(10) for word in ("a", "the", "big")]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.text_encoder()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def stop_after(monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    """The run ends by a signal once so many blocks are written."""
    write, count = file_encoding.write_block, iter(range(1, 1000))

    def stopped(path: Path, vectors: np.ndarray) -> None:
        write(path, vectors)
        if next(count) == blocks:
            raise KeyboardInterrupt

    monkeypatch.setattr(file_encoding, "write_block", stopped)


@pytest.mark.parametrize("blocks", [1, 2, 5])
@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_stopped_run_goes_on(
    model: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, suffix: str
) -> None:
    whole = encode_file(model, source, tmp_path / f"whole{suffix}", block_rows=7)
    assert (whole.rows, whole.dim, whole.reused) == (30, 32, 0)
    output = tmp_path / f"v{suffix}"
    with monkeypatch.context() as patch:
        stop_after(patch, blocks)
        with pytest.raises(KeyboardInterrupt):
            encode_file(model, source, output, block_rows=7)
    assert not output.exists()
    parts = tmp_path / f".v{suffix}.parts"
    assert len(list(parts.glob("*.npy"))) == blocks
    done = encode_file(model, source, output, block_rows=7)
    assert done.reused == min(30, 7 * blocks)
    assert output.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert not parts.exists()


def test_a_changed_text_is_computed_again(
    model: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "v.npy"
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            encode_file(model, source, output, block_rows=10)
    changed = [*TEXTS[:15], "a new text", *TEXTS[16:]]
    source.write_text("\n".join(changed) + "\n")
    assert encode_file(model, source, output, block_rows=10).reused == 20
    np.testing.assert_allclose(np.load(output), model.encode(changed), atol=1e-6)


@pytest.mark.parametrize("change", [{"normalize": False}, {"truncate_dim": 8}, {"prompt": "a "}, {"block_rows": 9}])
def test_parts_of_other_settings_are_refused(
    model: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    output = tmp_path / "v.npy"
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            encode_file(model, source, output, block_rows=7)
    with pytest.raises(UserError, match="another model or other settings; delete this folder"):
        encode_file(model, source, output, **{"block_rows": 7, **change})


def test_a_damaged_block_is_named(model: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "v.npy"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            encode_file(model, source, output, block_rows=10)
    block = min((tmp_path / ".v.npy.parts").glob("*.npy"))
    block.write_bytes(b"not numpy")
    with pytest.raises(UserError, match="is no block of vectors"):
        encode_file(model, source, output, block_rows=10)


def test_progress_counts_every_row(model: Any, source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    progress = lambda done, total: seen.append((done, total))  # noqa: E731
    encode_file(model, source, tmp_path / "v.npy", block_rows=8, progress=progress)
    assert [done for done, _ in seen] == [8, 16, 24, 30]


def test_settings_of_the_vectors_are_those_of_encode(model: Any, source: Path, tmp_path: Path) -> None:
    encode_file(model, source, tmp_path / "v.npy", prompt="the ", normalize=False, truncate_dim=5, batch_tokens=20)
    wanted = model.encode(TEXTS, prompt="the ", normalize=False, truncate_dim=5)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), wanted, atol=1e-6)


def test_images_and_texts_of_one_file(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    clip = dual.dual("bert", "clip")
    picture = dual.images(1)[0]
    picture.save(tmp_path / "x.png")
    rows = [{"image": "x.png", "text": ""}, {"image": "", "text": "a cat"}, {"image": "x.png", "text": ""}]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    encode_file(clip, path, tmp_path / "v.npy")
    wanted = clip.encode([picture, "a cat", picture])
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), wanted, atol=1e-6)


def test_images_for_a_text_model(model: Any, tmp_path: Path) -> None:
    dual.images(1)[0].save(tmp_path / "x.png")
    path = tmp_path / "images.jsonl"
    path.write_text(json.dumps({"image": "x.png"}))
    with pytest.raises(UserError, match="a text model encodes no images; name the column of the texts"):
        encode_file(model, path, tmp_path / "v.npy")


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ({"x": "a", "y": "b"}, None, "which one holds the texts or images"),
        ({"x": "a", "y": "b"}, "z", "no column 'z'"),
        (
            {"x": [0.5, 1.0], "y": [1.0, 2.0]},
            None,
            "'x' and 'y' hold vectors: which one .*--column x",
        ),
        ({"text": None}, None, "cell is empty, not text"),
        ({"text": 5}, None, "cell is int, not text"),
    ],
)
def test_rows_without_a_text_are_named(
    model: Any, tmp_path: Path, line: dict[str, Any], column: str | None, message: str
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(DataError, match=message):
        encode_file(model, path, tmp_path / "v.npy", column=column)
