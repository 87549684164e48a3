"""`embedkit encode --engine ray:2` beside `torchrun --nproc-per-node 2`, and once more with a worker that is killed.

    python -m eval.benchmarks.ray_engine [--rows 200000] [--model MODEL] [--rounds 1]

The texts are built-in sentences with a number behind each, so that all differ. Without ``--model`` it is the encoder of
the recipe quickstart with random weights (2 layers, 64 wide). Times are those of whole commands, start-up, reading and
joining included, in alternating rounds; of several rounds the median. The files must be equal byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from eval.benchmarks.kill import free_port

PYTHON = [sys.executable, "-m"]


def write_texts(path: Path, rows: int) -> None:
    """A file of built-in sentences, a number behind each."""
    from embedkit.data.builtin import sentences

    texts = [row["anchor"] for row in sentences.rows("pairs-train")]
    with path.open("w") as file:
        file.writelines(f"{texts[i % len(texts)]} {i}\n" for i in range(rows))


def children_of(pid: int) -> list[int]:
    """All processes below a process."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        below = parents.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def kill_one(pid: int, parts: Path, after: int) -> int:
    """The worker of the command `pid` that was killed once `after` blocks were there."""
    while len(list(parts.glob("*.npy"))) < after:
        time.sleep(0.05)
    for child in children_of(pid):
        try:
            name = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::_Holder"):
            os.kill(child, signal.SIGKILL)
            return child
    raise SystemExit("no worker was found to kill")


def seconds_of(command: list[str], output: Path, kill_after: int | None = None) -> float:
    """How long a command took, one of whose workers is killed after some blocks."""
    for path in output.parent.glob(f"*{output.name}*"):
        path.unlink()
    began = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if kill_after is not None:
        worker = kill_one(process.pid, output.with_name(f".{output.name}.parts"), kill_after)
        print(f"killed worker {worker} after {kill_after} blocks", flush=True)
    error = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{error}")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--model")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        texts, model = place / "texts.txt", options.model or str(place / "model")
        write_texts(texts, options.rows)
        if options.model is None:
            from embedkit.config.recipe_io import load_recipe
            from embedkit.factory import build

            build(load_recipe("quickstart").model).save(model)
        words = ["embedkit", "encode", model, str(texts)]
        torchrun = [*PYTHON, "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()), "-m"]
        commands = {
            "torchrun, 2 processes": ([*torchrun, *words], place / "two.npy"),
            "--engine ray:2": ([*PYTHON, *words, "--engine", "ray:2"], place / "ray.npy"),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, (command, output) in commands.items():
                times[name].append(seconds_of([*command[: command.index(str(texts)) + 1], str(output),
                                               *command[command.index(str(texts)) + 1 :]], output))  # fmt: skip
                print(f"{name}: {times[name][-1]:.1f} s", flush=True)
        killed = place / "killed.npy"
        after = seconds_of([*PYTHON, *words, str(killed), "--engine", "ray:2"], killed, kill_after=3)
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in place.glob("*.npy")}
        medians = {name: statistics.median(values) for name, values in times.items()}
        first, second = medians.values()
        print("\n| way | seconds | rows/s |\n| --- | --- | --- |")
        for name, value in [*medians.items(), ("--engine ray:2, one worker killed", after)]:
            print(f"| {name} | {value:.1f} | {options.rows / value:,.0f} |")
        print(f"\nspeed of Ray beside torchrun: {first / second:.2f}; files: {hashes}")
        if len(set(hashes.values())) != 1:
            raise SystemExit("the files differ")


if __name__ == "__main__":
    main()
