"""A kill of label or select, which have no parts to go on from, leaves the whole output or none."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedkit.cli.app import main

SCRIPT = """
import sys, time
from embedkit.cli.app import main
from embedkit.mining import output
from embedkit.mining.labels import api
from embedkit.mining.selection import api
plain = output._line
def slow(row):
    time.sleep(0.002)
    return plain(row)
output._line = slow
print("begin", flush=True)
sys.exit(main(sys.argv[1:]))
"""
COMMANDS = {
    "label": ["label", "texts.txt", "out.jsonl", "--clusters", "5", "--vectors", "v.npy"],
    "select": ["select", "texts.txt", "out.jsonl", "near-duplicates=0.9", "random=50%", "--vectors", "v.npy"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_output_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("".join(f"text {number}\n" for number in range(200)))
    np.save("v.npy", np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32))
    words = COMMANDS[command]
    assert main([words[0], words[1], "whole.jsonl", *words[3:]]) == 0
    whole, draw, kills = Path("whole.jsonl").read_bytes(), random.Random(1), 0
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, *words, "--overwrite"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()  # the imports are over
        time.sleep(draw.uniform(0.02, 0.5))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        assert not Path("out.jsonl").exists() or Path("out.jsonl").read_bytes() == whole
    assert kills
    assert main([*words, "--overwrite"]) == 0
    assert Path("out.jsonl").read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "texts.txt", "v.npy", "whole.jsonl"]
