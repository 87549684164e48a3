"""Crops made by worker processes: the same pixels as in a thread, whatever becomes of the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.data.builtin.shapes import draw
from embedkit.data.images.pictures import load_picture
from embedkit.models.inputs.preprocess import Preprocess
from embedkit.system.workers import OF_THREAD, Worker, WorkerGone, Workers
from embedkit.views.image import TRANSFORMS, ImageInput, crops, prepare_images
from embedkit.views.mixing import Mix


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(2, after=0)
    yield made
    made.close()


def _inputs() -> list[ImageInput]:
    pictures = [load_picture(draw((i, 0, 1, i % 2, 0))) for i in range(4)]
    inputs = [ImageInput(picture, TRANSFORMS["byol"], (7, i), (16, 16)) for i, picture in enumerate(pictures)]
    mixed = ImageInput(pictures[0], TRANSFORMS["clip"], (8, 0), (16, 16), inputs[1], Mix(0.6, texts=False))
    return [*inputs, mixed, ImageInput(pictures[2], TRANSFORMS["clip"], (9, 0), (16, 16), turn=(1, 3))]


def _started(workers: Workers) -> list[Worker]:
    """All processes of a pool, when each is free."""
    workers.call(len, "", units=1)
    assert workers._start is not None
    workers._start.join()
    return workers._all


def test_processes_make_the_pixels_of_threads(workers: Workers) -> None:
    inputs, calls = _inputs(), []
    pixels, frames = crops(inputs, (16, 16))
    for worker in _started(workers):
        calls.append(worker._process.pid)
        assert worker.call(os.getpid) == calls[-1] != os.getpid()
    for _ in range(3):
        theirs, shown = workers.call(crops, inputs, (16, 16), units=6)
        assert np.array_equal(theirs, pixels)
        assert np.array_equal(shown, frames)


def test_a_view_of_crops_goes_to_the_workers_of_the_thread(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    model = SimpleNamespace(preprocess=Preprocess(size=(16, 16)), image=SimpleNamespace(patches_of=lambda size: 4))
    expected = prepare_images(model, _inputs())
    asked: list[Any] = []
    _started(workers)
    call = Worker.call
    monkeypatch.setattr(Worker, "call", lambda self, *given: asked.append(given[0]) or call(self, *given))
    token = OF_THREAD.set(workers)
    try:
        made = prepare_images(model, _inputs())
        whole = prepare_images(model, [ImageInput(image.picture) for image in _inputs()])  # nothing is cropped
    finally:
        OF_THREAD.reset(token)
    assert asked == [crops]
    assert torch.equal(made.pixels, expected.pixels)
    assert np.array_equal(made.data["frame"], expected.data["frame"])
    assert len(whole) == len(made)


def test_the_work_of_a_killed_process_is_done_all_the_same(workers: Workers) -> None:
    expected = crops(_inputs(), (16, 16))[0]
    for worker in _started(workers):
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
    for _ in range(3):
        assert np.array_equal(workers.call(crops, _inputs(), (16, 16), units=6)[0], expected)


def test_errors_come_back_and_the_process_stays(workers: Workers) -> None:
    first = _started(workers)[0]
    with pytest.raises(ZeroDivisionError):
        first.call(divmod, 1, 0)
    assert first.call(divmod, 7, 2) == (3, 1)
    with pytest.raises(WorkerGone):
        first.call(len, (x for x in ()))  # cannot be pickled
    assert workers.call(sum, (x for x in (1, 2)), units=1) == 3  # by the thread


SCRIPT = """
import os, sys
from embedkit.system.workers import Worker
print(os.getpid(), flush=True)
worker = Worker()
print(worker.call(abs, -3), worker._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_process_ends_with_its_parent_and_does_not_run_its_script(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    lines = run.stdout.split("\n")
    assert run.returncode == -signal.SIGKILL
    assert len(lines[0].split()) == 1
    answer, pid = lines[1].split()
    assert answer == "3"
    assert lines[2:] == [""]
    for _ in range(200):
        if not _is_alive(int(pid)):
            return
        time.sleep(0.05)
    pytest.fail("the process outlives its parent")


CUT = """
import sys
from embedkit.system.workers import Worker
worker = Worker()
print(worker.call(abs, -3))
worker._process.stdin.write(b"\\x80\\x05cut")
worker._process.stdin.close()
print(worker._process.wait())
"""


def test_a_process_runs_no_file_where_it_starts_and_ends_without_a_word(tmp_path: Path) -> None:
    for folder in ("scripts", "work"):
        (tmp_path / folder).mkdir()
    script = tmp_path / "scripts" / "train.py"
    script.write_text(CUT)
    (tmp_path / "work" / "json.py").write_text("import os, sys; sys.stderr.write('run'); os._exit(3)")
    run = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path / "work", capture_output=True, text=True, check=False
    )
    assert (run.stdout, run.stderr) == ("3\n0\n", "")


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
