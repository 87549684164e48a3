"""The memory of a step: what the plan says against what a process takes, and chunks chosen by it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import RecipeError
from embedkit.system import memory
from embedkit.training import plan, planning
from embedkit.training.footprint import _fit
from embedkit.training.loop import build
from tests.training import runs, test_resume

TRAINS = """
import json, sys
from embedkit.config.recipe_io import load_recipe
from embedkit.training import plan, train
from embedkit.training.monitor.log import Progress
given = json.loads(sys.argv[1])
if sys.argv[2] == "plan":
    print(plan(load_recipe(given)).memory["peak"].split()[0])
else:
    train(given, output=sys.argv[3], progress=Progress())
    lines = open("/proc/self/status").read().splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc/self/status")
@pytest.mark.parametrize(("hidden", "layers"), [(64, 2), (256, 4)], ids=["small", "middle"])
def test_the_peak_is_what_the_plan_says(tmp_path: Path, hidden: int, layers: int) -> None:
    config = {"model_type": "bert", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4,
              "intermediate_size": 4 * hidden}  # fmt: skip
    rows = [
        {"anchor": f"a {'red ' * (i % 20)}lamp {i}", "positive": f"the {'old ' * (i % 30)}house {i}"}
        for i in range(768)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "name": "peak", "method": "pairs", "data": {"train": [{"path": str(path)}]},
        "model": {"config": config, "tokenizer": "builtin"},
        "train": {"max_steps": 3, "batch_size": 256, "save_every": 100},
    }  # fmt: skip

    def figure(what: str) -> float:
        command = [sys.executable, "-c", TRAINS, json.dumps(given), what, str(tmp_path / "run")]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

    assert figure("plan") == pytest.approx(figure("train"), rel=0.15)


def test_the_fit_finds_what_made_the_sizes_and_nothing_below_zero() -> None:
    rows = np.array([[1.0, 5, 25], [1, 60, 500], [1, 300, 12000]])
    assert _fit(rows, rows @ [1000.0, 40, 3]) == pytest.approx([1000, 40, 3])
    same = np.array([[1.0, 4, 16], [1, 32, 128], [1, 32, 128]])  # images: all of one size
    found = _fit(same, same @ [0.0, 7, 0])
    assert same @ found == pytest.approx(same @ [0.0, 7, 0])
    assert (_fit(rows, np.array([10.0, 5, 2])) >= 0).all()


def test_chunks_are_chosen_by_the_free_memory_and_kept_on_resume(tmp_path: Path, monkeypatch: Any) -> None:
    uncut = runs.run(tmp_path / "uncut")
    room = {"bytes": 2 * 10**6}
    monkeypatch.setattr(build, "available_bytes", lambda: room["bytes"])
    given = runs.recipe(dropout=0.1, train={"chunk_tokens": "auto", "save_every": 1})
    recorder = runs.Recorder()
    whole = runs.run(tmp_path / "whole", given, progress=recorder)
    (line,) = [line for line in recorder.lines if "chunk_tokens" in line]
    tokens = chunk_tokens_at(tmp_path / "whole", 4)
    assert f"auto takes {tokens:,} tokens a chunk" in line
    assert tokens < 200  # of about 300 tokens a step
    plain = runs.run(tmp_path / "plain", runs.recipe(train={"chunk_tokens": "auto"}))
    assert plain.losses == pytest.approx(uncut.losses, rel=1e-5)

    test_resume.killed_at(3, given, tmp_path / "broken")
    room["bytes"] = 10**12
    recorder = runs.Recorder()
    resumed = runs.run(tmp_path / "broken", given, resume=True, progress=recorder)
    assert any("resuming from step 2 " in line for line in recorder.lines)
    assert not any("chunk_tokens" in line for line in recorder.lines)
    assert chunk_tokens_at(tmp_path / "broken", 4) == tokens
    assert resumed.losses[-2:] == whole.losses[-2:]
    ends = [runs.checkpoint(tmp_path / name, 4) for name in ("whole", "broken")]
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())
    runs.run(tmp_path / "anew", given)
    assert chunk_tokens_at(tmp_path / "anew", 4) > 10**6  # without the checkpoint, the memory decides


def chunk_tokens_at(output: Path, step: int) -> int:
    """Tokens of a chunk in the checkpoint of a step."""
    return int(json.loads((output / f"checkpoints/step-{step:08d}/state.json").read_text())["chunk_tokens"])


def test_the_plan_counts_the_chunks_that_the_free_memory_gives(monkeypatch: Any) -> None:
    from embedkit.config.recipe_io import load_recipe

    given = runs.recipe(train={"chunk_tokens": "auto"})
    monkeypatch.setattr(planning, "available_bytes", lambda: 2 * 10**6)
    cut = plan(load_recipe(given))
    tokens = int(cut.memory["chunk_tokens"])
    given["train"] = {**given["train"], "chunk_tokens": tokens}
    assert cut.batch["chunks"] == plan(load_recipe(given)).batch["chunks"] > 1
    given["train"] = {**given["train"], "chunk_tokens": "auto"}
    monkeypatch.setattr(planning, "available_bytes", lambda: 10**12)
    assert plan(load_recipe(given)).batch["chunks"] == 1


def test_without_a_figure_auto_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(build, "available_bytes", lambda: None)
    with pytest.raises(RecipeError, match="does not say how much memory is free; give a number"):
        runs.run(tmp_path / "run", None, "train.chunk_tokens=auto")


def test_limits_of_the_control_group_count(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    before = memory.available_bytes()
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("600000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 50000\n")
    assert memory.available_bytes() == 450_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() != 450_000
    assert before is None or before > 450_000


def test_the_plan_says_what_moments_save() -> None:
    from embedkit.config.recipe_io import load_recipe

    found = plan(load_recipe("quickstart", ["train.moments=int8"], smoke=True)).memory
    assert found["saved"].startswith("moments in int8 save ")
