"""Every sentence method on the same data, backbone, batch, steps and seeds: one table.

    python eval/raw_backbone.py --out runs/backbone
    python eval/methods.py --out runs/methods [--methods simcse-unsup,diffcse] [--suites sts,geometry,transfer]
    python eval/methods_search.py --out runs/methods          (then the method "searched")
    python eval/methods.py --out runs/methods --speed

Each method runs in a process of its own: with every learning rate of three at the first seed, then, at the one with
the best STS-B dev, with the other seeds; it is tested at that rate alone. Each run adds one line to OUT/results.jsonl;
a finished one is not run again, an interrupted one goes on from its checkpoint, and one that lacks a suite asked for is
only scored on it (the transfer tasks take the longest; `--transfer limit=1000,folds=5` is a small form of them, good
for comparing rows of one table only). OUT/methods.md and OUT/methods.json are written anew after each method.

A method runs by its own shipped recipe (views, parts, objective, pooling, schedule) with these replaced: backbone,
data, batch size, number of steps, evaluation, learning rate, Adam's bias correction (on for all). Unsupervised methods
see the same sentences in the same order, supervised ones the same NLI triplets. Checkpoints are chosen by STS-B dev, of
the vectors that are tested. Columns: the seven STS test tasks and their average, its difference from simcse-unsup with
a 95 % interval (paired bootstrap over seeds and test rows), the average of the seven transfer tasks, alignment and
uniformity on STS-B test, seconds of processor time of a training run without its evaluations.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from methods_cases import (
    BASE,
    BASE_UNITS,
    SEARCHED,
    UNTRAINED,
    Case,
    backbone,
    cases,
    first_texts,
    overrides_of,
    rates_of,
)
from methods_table import best_rate, finished, markdown, missing, row_of, settings, table, with_differences

SPEED_STEPS = 16


def run_folder(out: Path, method: str, rate: float, seed: int) -> Path:
    """Where a run lies."""
    return out / "runs" / f"{method}-{rate:g}-{seed}"


@dataclass
class Clock:
    """Seconds between neighbouring steps, evaluations left out: of the clock, or of all the process's threads."""

    read: Callable[[], float] = time.process_time
    times: list[float] = field(default_factory=list)
    last: float | None = None

    def tick(self) -> None:
        """A step is finished."""
        now = self.read()
        if self.last is not None:
            self.times.append(now - self.last)
        self.last = now

    def pause(self) -> None:
        """What comes until the next step does not count."""
        self.last = None


def progress_of(clock: Clock, label: str) -> Any:
    """A progress display that reads the clock at each step."""
    from embedkit.training.monitor.log import Progress

    class Timed(Progress):
        def start(self, total: int | None, done: int) -> None:
            clock.tick()

        def step(self, done: int, figures: Any) -> None:
            clock.tick()

        def say(self, line: str) -> None:
            clock.pause()
            print(f"{label}: {line}", file=sys.stderr, flush=True)

    return Timed()


def append(row: dict[str, Any], options: argparse.Namespace) -> None:
    """Add a line to the results."""
    with (Path(options.out) / "results.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def base_run(case: Case, seed: int, options: argparse.Namespace) -> Path | None:
    """The run of simcse-unsup that a method reads."""
    if not case.needs_base:
        return None
    out = Path(options.out)
    rate = best_rate(finished(out, options), BASE)
    if rate is None:
        raise SystemExit(f"no finished {BASE}: run it first")
    return run_folder(out, BASE, rate, seed)


def train_one(method: str, rate: float, seed: int, options: argparse.Namespace) -> None:
    """Train one method with one rate and seed, unless that is done; one line of results."""
    if row_of(method, rate, seed, options):
        return
    import torch

    from embedkit.errors import NonFiniteError
    from embedkit.training import train

    out = Path(options.out)
    case, folder = cases(out)[method], run_folder(out, method, rate, seed)
    clock = Clock(time.perf_counter if torch.cuda.is_available() else time.process_time)
    row: dict[str, Any] = {"method": method, "rate": rate, "seed": seed, "settings": settings(options)}
    overrides = overrides_of(case, rate, seed, options, base_run(case, seed, options))
    try:
        progress = progress_of(clock, f"{method} {rate:g} seed {seed}")
        result = train(case.recipe, overrides, output=folder, resume=True, progress=progress)
    except NonFiniteError as error:  # a rate at which the loss is no number
        append(row | {"dev": None, "error": str(error)}, options)
        return
    if result.steps < options.steps:
        raise SystemExit(f"{folder}: stopped at step {result.steps}; the same command goes on from there")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated() / 2**30
    append(row | {
        "dev": result.best.get("value"), "best_step": result.best.get("step"), "loss": result.loss,
        "seconds": sum(clock.times), "memory_gib": memory, "date": time.strftime("%Y-%m-%d %H:%M"),
    }, options)  # fmt: skip


def score_one(method: str, rate: float | None, seed: int, options: argparse.Namespace) -> None:
    """Score a finished run, or the backbone as it is, on the suites that it lacks; one line of results."""
    suites = missing(row_of(method, rate, seed, options), options)
    if not suites:
        return
    from embedkit.formats import load

    folder = run_folder(Path(options.out), method, rate or 0, seed)
    row: dict[str, Any] = {"method": method, "rate": rate, "seed": seed, "settings": settings(options)}
    if method in UNTRAINED:
        model: Any = load(backbone(options))
        model.pooling, prompt = UNTRAINED[method]
        if prompt is not None:
            model.prompts, model.default_prompt = {"sentence": prompt}, "sentence"
    else:
        model = load(folder / "model")
    folder.mkdir(parents=True, exist_ok=True)
    append(row | scores(model, suites, folder, options), options)


def scores(model: Any, suites: list[str], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Test scores of a model on these suites; the report of STS is kept, with its samples."""
    from embedkit.evaluation import EmbeddingCache, open_suite

    data, cache = Path(options.shared) / "data", EmbeddingCache()
    found: dict[str, Any] = {}
    for key in suites:
        suite, _, changes = key.partition(" ")
        given = {name: int(value) for name, value in (change.split("=") for change in changes.split())}
        tasks = options.tasks.split(",") if options.tasks and suite == "sts" else None
        report = open_suite(suite, str(data), tasks=tasks, settings=given).run(model, cache=cache)
        if suite == "geometry":
            found["geometry"] = {key: float(report.tasks["stsb"].metrics[key]) for key in ("alignment", "uniformity")}
        else:
            found[key] = {task: float(score) for task, score in report.scores.items()}
        if suite == "sts":
            report.save(folder / "sts.json")
    return found


def run_method(method: str, options: argparse.Namespace) -> None:
    """All that a method lacks, in this process."""
    import torch

    torch.set_num_threads(options.threads)
    if method in UNTRAINED:
        score_one(method, None, 0, options)
        return
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for rate in rates_of(method, options):
        train_one(method, rate, seeds[0], options)
    best = best_rate(finished(Path(options.out), options), method)
    if best is None:
        raise SystemExit(f"{method}: no rate gave a score")
    for seed in seeds:
        train_one(method, best, seed, options)
        score_one(method, best, seed, options)


def speed(names: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows a second of short runs of each method, and how much of a step its passes explain by count.

    Each method stands between two runs of simcse-unsup, which it is divided by.
    """
    import torch

    torch.set_num_threads(options.threads)

    def median(method: str) -> float:
        from embedkit.training import train

        clock, case = Clock(), cases(Path(options.out))[method]
        short = argparse.Namespace(**{**vars(options), "steps": SPEED_STEPS})
        overrides = [*overrides_of(case, rates_of(method, options)[0], 0, short, base_run(case, 0, options)),
                     "evaluation=null"]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            train(case.recipe, overrides, output=f"{folder}/run", progress=progress_of(clock, method))
        return statistics.median(clock.times[SPEED_STEPS // 4 :])

    found, before = [], median(BASE)
    for name in names:
        case, own = cases(Path(options.out))[name], median(name)
        after = median(BASE)
        factor = own / statistics.fmean((before, after))
        count = count_of(case, options)
        found.append({"method": name, "rows_per_s": options.batch / own, "factor": factor, "count": count})
        print(f"{name:18} {options.batch / own:8.1f} rows/s  {factor:5.2f} x {BASE}  {count:5.2f} by count", flush=True)
        before = after
    return found


def count_of(case: Case, options: argparse.Namespace) -> float:
    """What a row costs by count of passes and tokens, simcse-unsup being 1."""
    from embedkit.formats import load

    tokenizer: Any = load(backbone(options)).tokenizer

    def length(kind: str) -> float:
        return statistics.fmean(len(ids) for ids in tokenizer(first_texts(kind, options))["input_ids"])

    return case.units / BASE_UNITS * (length(case.data) + case.tokens) / length("text")


def write(out: Path, options: argparse.Namespace, differences: bool = False) -> str:
    """Write both tables; the text of one. `differences`: with the bootstrap, some seconds a method."""
    entries = table(finished(out, options), options)
    if differences:
        with_differences(entries, lambda method, rate, seed: run_folder(out, method, rate or 0, seed))
    text = markdown(entries, options)
    (out / "methods.md").write_text(text)
    (out / "methods.json").write_text(json.dumps({"settings": settings(options), "rows": entries}, indent=1) + "\n")
    return text


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", default="runs/methods")
    parser.add_argument("--methods", help="names separated by commas; all when not given")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rates", default="1e-4,3e-4,1e-3", help="of all that train the whole encoder")
    parser.add_argument("--backbone", default="runs/backbone/model", help="folder that raw_backbone.py made")
    parser.add_argument("--text", help="sentences, one a line; short.txt beside the backbone when not given")
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--suites", default="sts,geometry,transfer")
    parser.add_argument("--tasks", help="STS tasks separated by commas; all seven when not given")
    parser.add_argument("--transfer", default="", help="settings of the transfer tasks, name=number, comma between")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--speed", action="store_true", help="measure the throughput of each method instead")
    parser.add_argument("--one", metavar="METHOD", help="run this one in this process (used by the command itself)")
    return parser


def main() -> int:
    """Run what is missing, then print the table."""
    options = arguments().parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if options.one is not None:
        run_method(options.one, options)
        return 0
    known = cases(out)
    wanted = options.methods.split(",") if options.methods else list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        hint = "run eval/methods_search.py first" if unknown[0] == SEARCHED else f"known: {', '.join(known)}"
        raise SystemExit(f"unknown method {unknown[0]!r}; {hint}")
    if options.speed:
        (out / "speed.json").write_text(json.dumps(speed(wanted, options), indent=1) + "\n")
        return 0
    needed = [*UNTRAINED] + [BASE] * any(known[name].needs_base for name in wanted)
    failed = []
    for method in dict.fromkeys([*needed, *wanted]):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", method]
        if subprocess.run(command, check=False).returncode:
            failed.append(method)
        write(out, options)
    print(write(out, options, differences=True))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
