"""A run that was broken off and resumed ends bit for bit where the unbroken one ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from embedkit.errors import CheckpointError
from embedkit.training import train
from embedkit.training.monitor.log import Progress
from embedkit.training.state.output_folder import check_folder
from embedkit.training.state.state import RunState
from tests.training import common

STOPS = {"epoch 0": 3, "boundary": 4, "epoch 1": 6}  # 4 steps an epoch
TOTAL = 9
MODES: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"model": {"lora": {"rank": 2, "dropout": 0.1}}},
    "cache": {"train": {"chunk_size": 4, "keep_chunks": 1, "ema": 0.9}},
}
ORDERS = ["shuffled", "no-duplicates", "by-label", "mixture", "stream"]


class KilledError(Exception):
    """Stands for a kill: nothing of the run is given a chance to clean up its data."""


class Lines(Progress):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def killed_at(step: int, given: dict[str, Any], output: Path, **settings: Any) -> None:
    """A run that ends, on every process, after the update of `step` and before its checkpoint."""
    real = RunState.save

    def save(self: RunState, *args: Any) -> Any:
        if self.position.step == step:
            raise KilledError
        return real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunState, "save", save)
        with pytest.raises(KilledError):
            train(given, output=output, progress=Progress(), **settings)


def write_data(folder: Path) -> None:
    """Two files of labelled pairs; every row has its own texts."""
    for name, start, count in (("a", 0, 24), ("b", 24, 16)):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for i in range(start, start + count):
                words = common.WORDS[i % 7 : i % 7 + 1 + i % 5]
                row = {
                    "anchor": f"{' '.join(words)} {common.WORDS[i % 19]} red",
                    "positive": f"the {' '.join(words)} old",
                    "label": i % 3,
                }
                file.write(json.dumps(row) + "\n")


def recipe(folder: Path, order: str, mode: str) -> dict[str, Any]:
    """A recipe of nine steps in a bit more than two epochs, with dropout."""
    a, b = {"path": str(folder / "a.jsonl")}, {"path": str(folder / "b.jsonl")}
    data: dict[str, Any] = {"train": [a], "sampler": order if order in ORDERS[:3] else "shuffled"}
    if order == "mixture":
        data = {"train": [{**a, "weight": 2.0}, {**b, "weight": 1.0}], "mixing": "weighted"}
    if order == "stream":
        data = {"train": [{**a, "stream": True}], "shuffle_buffer": 7}
    model = common.model_config(0.1).model_dump(exclude_none=True)
    settings = {"max_steps": TOTAL, "batch_size": 6, "lr": 1e-3, "warmup": 2, "save_every": 1, "log_every": 2}
    return {
        "name": "matrix", "seed": 7, "method": "pairs", "data": data,
        "model": {**model, **MODES[mode].get("model", {})},
        "train": {**settings, **MODES[mode].get("train", {})},
    }  # fmt: skip


def final_state(output: Path) -> dict[str, Any]:
    """Hashes of weights, optimiser, running mean and random state, and the position, of the last checkpoint."""
    folder = output / "checkpoints" / f"step-{TOTAL:08d}"
    files = json.loads((folder / "complete.json").read_text())["files"]
    hashes = {name: known["sha256"] for name, known in files.items() if name.endswith(".safetensors")}
    state = json.loads((folder / "state.json").read_text())
    return {"hashes": hashes, "position": state["position"]}


def run_whole(folder: str, order: str, mode: str, output: str) -> dict[str, Any]:
    """An unbroken run; its final state."""
    train(recipe(Path(folder), order, mode), output=output, progress=Progress())
    return final_state(Path(output))


def run_broken(folder: str, order: str, mode: str, output: str, stop: int) -> dict[str, Any]:
    """A run killed after the update of step ``stop + 1`` and then resumed from step `stop`; its final state."""
    given = recipe(Path(folder), order, mode)
    killed_at(stop + 1, given, Path(output))
    progress = Lines()
    train(given, output=output, resume=True, progress=progress)
    assert not progress.lines or any(f"resuming from step {stop} " in line for line in progress.lines)
    return final_state(Path(output))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("world", [1, 2])
def test_resume_is_bit_exact(tmp_path: Path, processes: Any, order: str, mode: str, world: int) -> None:
    if mode == "lora":
        pytest.importorskip("peft", reason="the LoRA cells need peft, which is in the dev extra")
    write_data(tmp_path)
    call = processes(world).run
    whole = call(run_whole, str(tmp_path), order, mode, str(tmp_path / "whole"))
    for name, stop in STOPS.items():
        broken = call(run_broken, str(tmp_path), order, mode, str(tmp_path / f"broken-{stop}"), stop)
        assert broken == whole, name
    assert whole[0]["position"]["step"] == TOTAL


def test_resuming_twice_and_a_finished_run(tmp_path: Path) -> None:
    write_data(tmp_path)
    given = recipe(tmp_path, "shuffled", "full")
    whole = run_whole(str(tmp_path), "shuffled", "full", str(tmp_path / "whole"))
    output = tmp_path / "twice"
    for stop in (3, 6):
        killed_at(stop, given, output, resume=True)
    for _ in range(2):  # the second time there is nothing left to do
        result = train(given, output=output, resume=True, progress=Progress())
        assert result.steps == TOTAL
        assert final_state(output) == whole


def test_changed_settings_are_refused_and_listed(tmp_path: Path) -> None:
    write_data(tmp_path)
    given = recipe(tmp_path, "shuffled", "full")
    killed_at(4, given, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"train\.lr was 0\.001, is 0\.01.*same settings"):
        train(given, ["train.lr=0.01"], output=tmp_path / "run", resume=True, progress=Progress())
    with open(tmp_path / "a.jsonl", "a", encoding="utf-8") as file:
        file.write('{"anchor": "one more", "positive": "one more row", "label": 1}\n')
    with pytest.raises(CheckpointError, match="the data was"):
        train(given, output=tmp_path / "run", resume=True, progress=Progress())


def test_settings_that_decide_nothing_may_change(tmp_path: Path) -> None:
    write_data(tmp_path)
    given = recipe(tmp_path, "shuffled", "full")
    whole = run_whole(str(tmp_path), "shuffled", "full", str(tmp_path / "whole"))
    killed_at(4, given, tmp_path / "run")
    train(
        given,
        ["train.log_every=1", "train.keep_checkpoints=5"],
        output=tmp_path / "run",
        resume=True,
        progress=Progress(),
    )
    assert final_state(tmp_path / "run")["hashes"] == whole["hashes"]


def test_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    write_data(tmp_path)
    given = recipe(tmp_path, "shuffled", "full")
    killed_at(3, given, tmp_path / "run")
    with pytest.raises(CheckpointError, match="holds a run; add --resume"):
        train(given, output=tmp_path / "run", progress=Progress())


def test_a_model_whose_checkpoints_are_gone_is_not_trained_over(tmp_path: Path) -> None:
    write_data(tmp_path)
    given, output = recipe(tmp_path, "shuffled", "full"), tmp_path / "run"
    train(given, output=output, progress=Progress())
    weights = (output / "model" / "model.safetensors").stat()
    for is_damaged in (True, False):
        for checkpoint in (output / "checkpoints").glob("step-*"):
            if is_damaged:
                (checkpoint / "state.json").write_text("{}")
            else:
                shutil.rmtree(checkpoint)
        with pytest.raises(CheckpointError, match="a model, but no checkpoint to resume from; give another"):
            train(given, output=output, resume=True, progress=Progress())
    assert (output / "model" / "model.safetensors").stat() == weights
    shutil.rmtree(output / "model")  # nothing of value is left: the same command begins anew
    assert train(given, output=output, resume=True, progress=Progress()).steps == TOTAL


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_model_of_others_is_not_replaced(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "model").mkdir()
    check_folder(tmp_path, resume=True)  # an empty one is nobody's
    with pytest.raises(CheckpointError, match="a model, but no checkpoint to resume from; give another"):
        check_folder(tmp_path, resume=False)
    (tmp_path / "model" / "net.py").write_text("x = 1")
    with pytest.raises(CheckpointError, match="embedkit did not write this.*; give another train.output"):
        check_folder(tmp_path, resume)


def test_a_changed_vocabulary_is_refused(tmp_path: Path) -> None:
    words = tmp_path / "vocab.txt"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(common.WORDS))]
    words.write_text("\n".join(pieces) + "\n")
    write_data(tmp_path)
    given = recipe(tmp_path, "shuffled", "full")
    given["model"]["tokenizer"] = str(words)
    killed_at(5, given, tmp_path / "run")
    words.write_text("\n".join([*pieces[:-2], pieces[-1], pieces[-2]]) + "\n")
    with pytest.raises(CheckpointError, match="belongs to another run: the tokenizer or another file of the model"):
        train(given, output=tmp_path / "run", resume=True, progress=Progress())
    words.write_text("\n".join(pieces) + "\n")
    assert train(given, output=tmp_path / "run", resume=True, progress=Progress()).steps == TOTAL
