"""Two machines on the loopback interface: accelerate's own launch, once for each, joins them by gloo into one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eval.benchmarks.kill import free_port

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
FSDP = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
        "--fsdp_transformer_layer_cls_to_wrap", "BertLayer", "--mixed_precision", "no",
        "--dynamo_backend", "no"]  # fmt: skip
TRAIN = ["-m", "embedkit", "train", "quickstart", "--smoke", "train.max_steps=3", "evaluation=null", "--output"]


def launch(rank: int, port: int, output: Path) -> subprocess.Popen[str]:
    """The launch on one of two machines with a process each."""
    place = ["--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank)]
    place += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    command = [sys.executable, "-m", "accelerate.commands.launch", *place, *FSDP, *TRAIN, str(output)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def losses(output: Path) -> list[float]:
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_two_machines_train_as_one(tmp_path: Path) -> None:
    port = free_port()
    machines = [launch(rank, port, tmp_path / "two") for rank in (0, 1)]
    outputs = [machine.communicate(timeout=500)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(outputs)
    command = [sys.executable, *TRAIN, str(tmp_path / "one")]
    subprocess.run(command, check=True, capture_output=True)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    difference = torch.cat([(two[name] - weights).flatten() for name, weights in one.items()])
    whole = torch.cat([weights.flatten() for weights in one.values()])
    assert difference.abs().max() < 1e-4  # two of all weights are more than 1e-5 apart
    assert difference.norm() < 1e-5 * whole.norm()  # 1.6e-6 was seen


def test_the_page_has_the_launch_that_runs_here() -> None:
    text = " ".join(PAGE.read_text().replace("\\\n", " ").split())
    assert " ".join(FSDP) in text and "--num_machines 2 --machine_rank 0" in text
