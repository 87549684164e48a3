"""How long a person waits before anything happens: imports, the help text, and the line about a wrong input.

    python eval/benchmarks/startup.py [--rounds 5]

Every figure is the wall time of a whole new process, median of alternating rounds.
"""

from __future__ import annotations

import argparse
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
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        timed = commands(Path(name))
        seconds: dict[str, list[float]] = {label: [] for label in timed}
        for _ in range(arguments.rounds):
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
