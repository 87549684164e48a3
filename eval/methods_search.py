"""A recipe for the table of `eval/methods.py`, searched on STS-B dev alone with the budget of any other method.

    python eval/methods_search.py --out runs/methods [the options of eval/methods.py]

Every method of the table has three runs of STEPS steps to choose its learning rate; here the same number of steps is
spent as twelve runs of a quarter. The start is unsupervised SimCSE; one setting after another of `COORDINATES` is
tried (pooling, views, kernel, auxiliary, rate), and kept when STS-B dev is higher. OUT/search.jsonl has a line for each
trial (one that is there is not run again), OUT/search.json what is kept so far: the method "searched" of the table. A
search that is stopped early has found something with a smaller budget; `trials` there says how many there were.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from methods import Clock, arguments, progress_of
from methods_cases import BASE_UNITS, Case, overrides_of

TRIALS = 12
SHARE = 4  # a trial has this part of a run's steps: TRIALS / SHARE runs in all
MASKED_UNITS = 6.0

Setting = dict[str, Any]

START: Setting = {
    "rate": 3e-4, "method.anchor": [], "method.positive": [], "model.pooling": "cls",
    "model.head": {"kind": "tanh", "train_only": True}, "objective": {"name": "infonce", "temperature": 0.05},
    "auxiliary": [],
}  # fmt: skip
"""SimCSE (Gao et al. 2021), with a rate that a tiny encoder needs."""

COORDINATES: list[tuple[str, Setting]] = [
    ("mean pooling, no head", {"model.pooling": "mean", "model.head": None}),
    ("cut features and shuffled positions", {
        "method.anchor": [{"name": "feature-cutoff", "rate": 0.2}], "method.positive": [{"name": "token-shuffle"}]}),
    ("rate x 3", {"rate": 1e-3}),
    ("word repetition", {"method.positive": [{"name": "word-repetition", "rate": 0.32}]}),
    ("word deletion", {"method.positive": [{"name": "word-deletion", "rate": 0.2}]}),
    ("decoupled", {"objective": {"name": "dcl", "temperature": 0.05}}),
    ("hard negatives weigh more", {"objective": {"name": "hn-nce", "temperature": 0.05, "beta": 0.25}}),
    ("more dropout", {"model.dropout": 0.2}),
    ("cut tokens", {"method.anchor": [{"name": "token-cutoff", "rate": 0.15}],
                    "method.positive": [{"name": "token-cutoff", "rate": 0.15}]}),
    ("higher temperature", {"objective": {"name": "infonce", "temperature": 0.1}}),
    ("masked words beside", {"auxiliary": [{"name": "mlm", "tied": False, "weight": 0.1}]}),
]  # fmt: skip


def overrides(setting: Setting) -> tuple[str, ...]:
    """The setting as changes of the recipe `views`."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in setting.items() if key != "rate")


def units(setting: Setting) -> float:
    """What a row costs by count of passes."""
    return BASE_UNITS + MASKED_UNITS * len(setting["auxiliary"])


def dev_of(setting: Setting, options: argparse.Namespace) -> float:
    """STS-B dev of a short run."""
    from embedkit.training import train

    short = argparse.Namespace(**{**vars(options), "steps": options.steps // SHARE})
    own = (*overrides(setting), f"evaluation.every={short.steps}")
    changes = overrides_of(Case("views", overrides=own), setting["rate"], 0, short)
    with tempfile.TemporaryDirectory() as folder:
        result = train("views", changes, output=f"{folder}/run", progress=progress_of(Clock(), "trial"))
    if result.steps < short.steps:
        raise SystemExit(f"stopped at step {result.steps} of a trial; the same command runs that trial again")
    return float(result.best["value"])


def search(options: argparse.Namespace) -> Setting:
    """Run the trials that are missing; the setting that is kept."""
    import torch

    torch.set_num_threads(options.threads)
    out = Path(options.out)
    path = out / "search.jsonl"
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    kept, best, names = dict(START), float("-inf"), []
    for number, (name, change) in enumerate([("SimCSE", {}), *COORDINATES][:TRIALS]):
        setting = kept | change
        row = next((row for row in known if row["setting"] == setting), None)
        if row is None:
            row = {"trial": number, "name": name, "setting": setting, "dev": dev_of(setting, options)}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        taken = row["dev"] > best
        print(f"{number:2} {name:38} STS-B dev {row['dev']:.2f}{'  kept' if taken else ''}", flush=True)
        if taken:
            kept, best = setting, row["dev"]
            names.append(name)
        found = {"rate": kept["rate"], "overrides": overrides(kept), "units": units(kept), "note": " + ".join(names),
                 "dev": best, "trials": number + 1}  # fmt: skip
        (out / "search.json").write_text(json.dumps(found, indent=1) + "\n")
    return kept


def main() -> int:
    """Search and print what was found."""
    options = arguments().parse_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    print(json.dumps(search(options)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
