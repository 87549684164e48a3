"""A call that is stopped anywhere goes on where it was; several processes write what one does, bit for bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.config.recipe_io import load_recipe
from embedkit.data import read_rows
from embedkit.errors import CheckpointError, DiskError, UserError
from embedkit.factory import build
from embedkit.mining import api, parts, vectors
from embedkit.mining.rows.journal import Journal
from embedkit.mining.scores import api as scores
from embedkit.models.encode import file_encoding
from embedkit.models.encode.file_encoding import encode_file
from embedkit.system.disk import FolderLock
from tests.helpers.gloo import run_processes

SETTINGS: dict[str, Any] = {"num_negatives": 2, "sampling": "random", "seed": 3, "output_scores": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    build(load_recipe("quickstart").model, 0).save(folder)
    return folder


@pytest.fixture
def faq(tmp_path: Path) -> Path:
    rows = [
        {"anchor": row["anchor"], "positive": row["positive"]} for row in read_rows("builtin:pairs-train", limit=90)
    ]
    (tmp_path / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "faq.jsonl"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def shrink(patch: Any) -> None:
    """Parts of few rows, so that there are many."""
    patch.setattr(api, "part_size", lambda candidates: 20)
    patch.setattr(api, "_SCORED", 20)
    patch.setattr(vectors, "CHUNK", 25)


class Stop(BaseException):
    """As a signal ends a process: nothing may catch it."""


def stop_after(patch: pytest.MonkeyPatch, files: int) -> None:
    """The call ends once so many parts are on the disk."""
    save, count = np.savez, iter(range(1, 1000))

    def savez(file: Any, **arrays: Any) -> None:
        if next(count) > files:
            raise Stop
        save(file, **arrays)

    patch.setattr(parts.np, "savez", savez)


def score(texts_a: list[str], texts_b: list[str]) -> list[float]:
    return [len(set(a) & set(b)) / len(set(b)) for a, b in zip(texts_a, texts_b, strict=True)]


@pytest.mark.parametrize("extra", [{}, {"cross_encoder": score, "max_score": 0.9}], ids=["plain", "scores"])
@pytest.mark.parametrize("files", [0, 2, 5, 9, 12])
def test_a_stopped_call_goes_on(
    faq: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, extra: dict[str, Any]
) -> None:
    whole = embedkit.mine(faq, model, output=tmp_path / "whole.jsonl", **SETTINGS, **extra)
    memory = embedkit.mine(faq, model, **SETTINGS, **extra)
    assert memory.rows == whole.rows and memory.report == whole.report
    with monkeypatch.context() as patch:
        stop_after(patch, files)
        with pytest.raises(Stop):
            embedkit.mine(faq, model, output=tmp_path / "out.jsonl", **SETTINGS, **extra)
    assert not (tmp_path / "out.jsonl").exists()
    work = []
    with monkeypatch.context() as patch:
        save = np.savez
        patch.setattr(parts.np, "savez", lambda file, **arrays: (work.append(1), save(file, **arrays)))
        again = embedkit.mine(faq, model, output=tmp_path / "out.jsonl", **SETTINGS, **extra)
    total = 2 * 4 + 5  # vectors of 90 anchors and 90 candidates in parts of 25, searches in parts of 20
    assert len(work) == total - files  # nothing is done twice
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert again.report == whole.report
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_keeps_what_is_done(
    faq: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, count = np.savez, iter(range(100))

    def savez(file: Any, **arrays: Any) -> None:
        if next(count) == 6:
            raise OSError(28, "No space left on device")
        save(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(parts.np, "savez", savez)
        with pytest.raises(DiskError, match="a part of the work cannot be written: no space left"):
            embedkit.mine(faq, model, output=tmp_path / "out.jsonl", **SETTINGS)
    assert (tmp_path / ".out.jsonl.parts").is_dir()
    embedkit.mine(faq, model, output=tmp_path / "out.jsonl", **SETTINGS)
    assert (tmp_path / "out.jsonl").is_file() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("command", ["mine", "encode", "index", "score", "generate"])
def test_ctrl_c_tells_where_the_work_is_kept_and_leaves_nothing_else(
    faq: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    command: str, count: int,
) -> None:  # fmt: skip
    output = tmp_path / "work" / ("out.npy" if command == "encode" else "out.jsonl")
    output.parent.mkdir()
    done = iter(range(100))

    def interrupt(*_: Any) -> None:
        if next(done) >= count:
            raise KeyboardInterrupt

    def each(function: Any) -> Any:
        return lambda *given, **named: (interrupt(), function(*given, **named))[1]

    def call() -> Any:
        if command == "mine":
            return embedkit.mine(faq, model, output=output, **SETTINGS)
        if command == "generate":
            return embedkit.generate(faq, lambda prompt: '["again"]', column="anchor", output=output)
        if command == "score":
            return embedkit.score(faq, model=model, output=output)
        if command == "index":
            return embedkit.build_index(faq, output, embedkit.load(model), column="anchor", block_rows=25)
        return encode_file(embedkit.load(model), faq, output, column="anchor", block_rows=25)

    with monkeypatch.context() as patch:
        patch.setattr(parts.np, "savez", each(np.savez))
        patch.setattr(file_encoding, "write_block", each(file_encoding.write_block))
        patch.setattr(Journal, "put", each(Journal.put))
        patch.setattr(scores, "WINDOW", 25)
        with pytest.raises(KeyboardInterrupt):
            call()
    places = list(output.parent.iterdir())
    if count == 0:
        assert not places and "kept" not in caplog.text
        return
    assert len(places) == 1 and f"so far are kept in {places[0]}, and the same call goes on" in caplog.text


@pytest.mark.parametrize(("change", "expected"), [
    ({"seed": 4}, "another seed"), ({"cross_encoder": score}, "another cross_encoder"),
    ({"text": "x"}, "another texts"),
])  # fmt: skip
def test_parts_of_another_call_are_refused(
    faq: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], expected: str
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(Stop):
            embedkit.mine(faq, model, output=tmp_path / "out.jsonl", **SETTINGS)
    settings = {**SETTINGS, **change}
    if settings.pop("text", None):
        faq.write_text(faq.read_text().replace('"anchor": "', '"anchor": "x', 1))
    with pytest.raises(UserError, match=f"holds the parts of a stopped call with {expected}; delete this folder"):
        embedkit.mine(faq, model, output=tmp_path / "out.jsonl", **settings)
    # what does not decide the negatives may change
    if "seed" in change:
        rows = embedkit.mine(faq, model, output=tmp_path / "out.jsonl", **SETTINGS, as_list=True, block_size=7).rows
        assert "negatives" in rows[0]


def test_a_model_that_cannot_tell_what_it_is_begins_anew(
    faq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Letters:
        def encode(self, texts: list[str]) -> np.ndarray:
            return np.array([[text.count(c) + 0.5 for c in "aeiostn"] for text in texts])

    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(Stop):
            embedkit.mine(faq, Letters(), output=tmp_path / "out.jsonl", **SETTINGS)
    assert len(list((tmp_path / ".out.jsonl.parts").glob("*.np?"))) >= 3
    embedkit.mine(faq, Letters(), output=tmp_path / "out.jsonl", **SETTINGS)
    assert not list(tmp_path.glob(".*"))


def test_damaged_parts_and_a_second_call_are_lines(
    faq: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 10)
        with pytest.raises(Stop):
            embedkit.mine(faq, model, output=tmp_path / "out.jsonl", **SETTINGS)
    folder = tmp_path / ".out.jsonl.parts"
    with FolderLock(folder, "-"), pytest.raises(CheckpointError, match="in use by process"):
        embedkit.mine(faq, model, output=tmp_path / "out.jsonl", **SETTINGS)
    (folder / "negatives-000000.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"negatives-000000.npz: is no part of the work .*; delete its folder"):
        embedkit.mine(faq, model, output=tmp_path / "out.jsonl", **SETTINGS)


def test_a_mistake_leaves_no_folder(faq: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no negatives are left"):
        embedkit.mine(faq, model, output=tmp_path / "out.jsonl", max_score=-2.0)
    assert not list(tmp_path.glob(".*"))


def _mine(faq: str, model: str, output: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        return embedkit.mine(faq, model, output=output, device="cpu", **settings).rows


def test_several_processes_write_what_one_does(faq: Path, model: Path, tmp_path: Path) -> None:
    whole = embedkit.mine(faq, model, output=tmp_path / "whole.jsonl", device="cpu", **SETTINGS)
    rows = run_processes(_mine, 2, str(faq), str(model), str(tmp_path / "out.jsonl"), SETTINGS)
    assert rows[0] == rows[1] == whole.rows
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob(".*"))


SCRIPT = """
import sys
from embedkit.mining import api, vectors
from embedkit.cli.app import main
api.part_size = lambda candidates: 10
vectors.CHUNK = 25
print("begin", flush=True)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing(faq: Path, model: Path, tmp_path: Path) -> None:
    words = ["mine", str(faq), str(tmp_path / "out.jsonl"), "-m", str(model), "--sampling", "random", "--seed", "3",
             "--device", "cpu"]  # fmt: skip
    draw = random.Random(5)
    kills = 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, *words], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()  # the imports are over
        time.sleep(draw.uniform(0.05, 1.2))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        if (tmp_path / "out.jsonl").exists():
            break
    if not (tmp_path / "out.jsonl").exists():
        subprocess.run([sys.executable, "-c", SCRIPT, *words], check=True, capture_output=True)
    whole = embedkit.mine(faq, model, sampling="random", seed=3, device="cpu")
    assert kills and list(read_rows(str(tmp_path / "out.jsonl"))) == whole.rows
    assert not list(tmp_path.glob(".*"))
