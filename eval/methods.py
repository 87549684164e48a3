"""Every sentence method on the same data, backbone, batch, steps and seeds: one table.

    python eval/methods.py --out runs/methods [--methods simcse-unsup,diffcse] [--seeds 0,1,2] [--steps 250]

Each (method, seed) runs in a process of its own and adds one line to OUT/results.jsonl; a finished one is not run
again, an interrupted one goes on from its checkpoint, and one that lacks a suite asked for is only scored on it (the
transfer tasks take the longest: `--suites transfer` adds them later, and `--transfer limit=1000,folds=5` is a small
form of them, good for comparing rows of one table only). OUT/methods.md and OUT/methods.json are written
anew after each run.

A method runs by its own shipped recipe (views, parts, objective, pooling, schedule) with these replaced: backbone,
data, batch size, number of steps, evaluation, Adam's bias correction (on for all), and the learning rate: one for all
that train the whole encoder, since the published ones belong to runs a hundred times as long; frozen encoders and
static ones keep theirs. Unsupervised methods see the same Wikipedia sentences in the same order, supervised ones the
same NLI triplets. Checkpoints are chosen by STS-B dev, of the vectors that are tested. Columns: the seven STS test
tasks and their average, the average of the seven transfer tasks, alignment and uniformity on STS-B test, training rows
per second (median step, evaluation left out; on a CPU per second of processor time, which other programs do not
disturb), peak memory of the process while training, share of computed tokens that are padding.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BASE = "simcse-unsup"
STS = ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sickr")
SEVERAL = 2  # rows of the same method from which on a deviation is printed


@dataclass(frozen=True)
class Case:
    """How one method is run here.

    Attributes
    ----------
    recipe : str
        A shipped recipe.
    data : str
        A key of `sources`.
    own_rate : bool
        Whether the recipe's learning rate is kept: where the encoder is frozen or not a transformer.
    overrides : tuple of str
        Further changes, ``dotted.key=value``; ``{BASE}`` is the folder of the same seed's simcse-unsup model.
    note : str
        What differs from the published setting besides data, backbone, batch and steps.
    """

    recipe: str
    data: str = "text"
    own_rate: bool = False
    overrides: tuple[str, ...] = ()
    note: str = ""

    @property
    def needs_base(self) -> bool:
        """Whether a finished simcse-unsup run of the same seed must be there."""
        return any("{BASE}" in change for change in self.overrides)


CASES: dict[str, Case] = {
    "simcse-unsup": Case("simcse-unsup"),
    "simcse-unsup-mlm": Case("simcse-unsup-mlm"),
    "diffcse": Case(
        "diffcse", overrides=("method.generator={BACKBONE}",),
        note="generator: the backbone itself",
    ),
    "promptbert-unsup": Case("promptbert-unsup"),
    "promptbert-opti": Case("promptbert-opti", own_rate=True, note="the encoder is frozen"),
    "consert": Case("consert"),
    "promcse": Case("promcse-unsup", own_rate=True, note="the encoder is frozen"),
    "views": Case("views", note="word repetition in the second view (ESimCSE)"),
    "macl": Case("macl", note="alpha and offset of the paper not verified"),
    "dclr": Case(
        "dclr", overrides=("guide.model.name={BASE}", "guide.model.head=null", "guide.dropout=false",
                           "model.head={train_only: true}"),
        note="complementary model: simcse-unsup of the same seed, its [CLS] without dropout; no pooler there",
    ),
    "sct": Case(
        "sct", data="paraphrases", overrides=("objective.size=4096",),
        note="pairs: aligned Wikipedia sentences, for there are no back-translations here; queue 4096",
    ),
    "sg-opt": Case("sg-opt", overrides=("method.hidden=1536",), note="Wikipedia sentences, not STS-B's; head 1536"),
    "micse": Case("micse", overrides=("method.layers=null",), note="layers 3 and 4 of 6"),
    "mcse": Case("mcse-flickr", data="captions", overrides=("method.size=192",), note="features: 8 x 8 pixels"),
    "sent2vec": Case("sent2vec", own_rate=True, note="a static encoder from scratch; few steps are little for it"),
    "mlm": Case(
        "mlm-small", overrides=("model.config=null", "model.tokenizer=null"),
        note="masked words alone, no contrast",
    ),
    "clusterns": Case("clusterns", overrides=("objective.clusters=32",), note="32 clusters: half of a batch"),
    "whitenedcse": Case("whitenedcse", overrides=("method.groups=64",), note="64 groups of features"),
    "unsee": Case("unsee", overrides=("method.expansion=4",), note="VICReg; the predictor 4 times as wide, not 10"),
    "compcse": Case("compcse", note="sentences cut at random places, no partition file"),
    "clear": Case(
        "clear", overrides=("model.config=null", "model.tokenizer=null"),
        note="from the backbone, not from scratch; constants from memory of the paper",
    ),
    "simcse-sup": Case("simcse-sup", data="triplets"),
    "promptbert-sup": Case("promptbert-sup", data="triplets"),
    "promcse-sup": Case("promcse-sup", data="triplets", own_rate=True, note="the encoder is frozen"),
    "consert-sup": Case("consert-joint", data="labelled", note="labelled NLI pairs"),
}  # fmt: skip

UNTRAINED = {"untrained-cls": ("cls", None), "untrained-mean": ("mean", None), "untrained-last-two": ("last-two", None),
             "untrained-prompt": ("mask", 'This sentence : "{.}" means [MASK].')}  # fmt: skip
"""Rows of the backbone as it is: pooling and prompt; they have no seed."""


def sources(kind: str, shared: Path, out: Path) -> list[dict[str, Any]]:
    """The entries of ``data.train``."""
    data = shared / "data"
    text = {"path": str(data / "text" / "wiki.txt.gz"), "columns": {"text": "anchor"}}
    if kind == "text":
        return [text]
    if kind == "captions":
        return [
            text,
            {"path": str(caption_features(shared, out)), "columns": {"caption": "anchor", "features": "features"}},
        ]
    if kind == "labelled":
        return [{"path": str(labelled_pairs(shared, out))}]
    clean = {"split": "train", "sts_overlap": False}
    if kind == "triplets":
        columns = {"anchor": "anchor", "positive": "positive", "negative": "negative_1"}
        return [{"path": str(data / "nli" / "nli_triplets.parquet"), "columns": columns, "where": clean}]
    columns = {"sentence1": "anchor", "sentence2": "positive"}
    return [{"path": str(data / "paraphrase" / "wiki_paraphrase.parquet"), "columns": columns, "where": clean}]


def caption_features(shared: Path, out: Path) -> Path:
    """Captions of the small Flickr8k with 8 x 8 pixels of their image: the only frozen "image encoder" at hand."""
    path = out / "captions.parquet"
    if path.exists():
        return path
    import io

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    known = pq.read_table(shared / "data" / "captions" / "flickr8k_captions.parquet", columns=["id", "sts_overlap"])
    tested = {row["id"] for row in known.to_pylist() if row["sts_overlap"]}
    rows: list[dict[str, Any]] = []
    for row in pq.read_table(shared / "data" / "image_text" / "flickr8k_1k.parquet").to_pylist():
        if row["split"] != "train" or row["id"] in tested:  # a caption of an STS test set
            continue
        small = Image.open(io.BytesIO(row["image"])).convert("RGB").resize((8, 8), Image.Resampling.BOX)
        pixels = (np.asarray(small, dtype=np.float32) / 127.5 - 1).reshape(-1).tolist()
        rows += [{"caption": caption, "features": pixels} for caption in row["captions"]]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def labelled_pairs(shared: Path, out: Path) -> Path:
    """NLI pairs of the training split, classes numbered."""
    path = out / "labelled.parquet"
    if path.exists():
        return path
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"entailment": 0, "neutral": 1, "contradiction": 2}
    rows = [
        {"anchor": row["premise"], "positive": row["hypothesis"], "label": numbers[row["label"]]}
        for row in pq.read_table(shared / "data" / "nli" / "nli_pairs.parquet").to_pylist()
        if row["split"] == "train" and not row["sts_overlap"]
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def overrides_of(case: Case, seed: int, options: argparse.Namespace) -> list[str]:
    """What is changed in the case's recipe."""
    shared, out = Path(options.shared), Path(options.out)
    base = str(run_folder(out, BASE, seed) / "model")
    changes: dict[str, Any] = {
        "seed": seed, "train.epochs": None, "train.max_steps": options.steps, "train.batch_size": options.batch,
        "train.bias_correction": True,
        "train.chunk_tokens": None, "train.save_every": 10**6, "train.log_every": max(1, options.steps // 10),
        "data.train": sources(case.data, shared, out), "data.drop_last": True, "evaluation.suite": "sts",
        "evaluation.tasks": ["stsb"], "evaluation.split": "dev", "evaluation.metric": "sts/stsb",
        "evaluation.vectors": None,
        "evaluation.data": str(shared / "data" / "sts"), "evaluation.every": max(1, options.steps // 5),
    }  # fmt: skip
    if case.recipe != "sent2vec":
        changes["model.name"] = backbone(options)
    else:
        tokenizer = shared / "data" / "tokenizers" / "bert-base-uncased" / "vocab.txt"
        changes |= {"model.tokenizer": str(tokenizer), "method.frequencies": sources("text", shared, out)[0]["path"]}
    if not case.own_rate:
        changes["train.lr"] = options.rate
    own = [change.replace("{BASE}", base).replace("{BACKBONE}", backbone(options)) for change in case.overrides]
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()] + own


def backbone(options: argparse.Namespace) -> str:
    """Folder of the model that all methods but the static ones start from."""
    return options.backbone or str(Path(options.shared) / "models" / "raw-bert-mini")


def run_folder(out: Path, method: str, seed: int) -> Path:
    """Where a run lies."""
    return out / "runs" / f"{method}-{seed}"


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


def run_one(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score one method with one seed in this process."""
    import torch

    from embedkit.formats import load
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    clock = Clock(time.perf_counter if torch.cuda.is_available() else time.process_time)

    class Timed(Progress):
        def start(self, total: int | None, done: int) -> None:
            clock.tick()

        def step(self, done: int, figures: Any) -> None:
            clock.tick()

        def say(self, line: str) -> None:
            clock.pause()
            print(f"{method} seed {seed}: {line}", file=sys.stderr, flush=True)

    torch.set_num_threads(options.threads)
    known = {"method": method, "seed": seed, "settings": settings(options)}
    before = row_of(method, seed, options)
    suites = missing(before, options)
    if method in UNTRAINED:
        model = load(backbone(options))
        model.pooling, prompt = UNTRAINED[method]
        if prompt is not None:
            model.prompts, model.default_prompt = {"sentence": prompt}, "sentence"
        return {**known, **scores(model, suites, options)}
    case, folder = CASES[method], run_folder(Path(options.out), method, seed)
    if before:  # finished with these settings, only to be scored on these
        return {**known, **scores(load(folder / "model"), suites, options)}
    result = train(case.recipe, overrides_of(case, seed, options), output=folder, resume=True, progress=Timed())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated() / 2**30
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    padding = [row["padding_share"] for row in log if "padding_share" in row]
    return {
        **known, "note": case.note,
        "rows_per_s": options.batch / statistics.median(clock.times) if clock.times else None,
        "memory_gib": memory, "padding_share": statistics.fmean(padding), "loss": result.loss,
        "dev": result.best.get("value"), "best_step": result.best.get("step"),
        **scores(load(result.output), suites, options),
    }  # fmt: skip


def scores(model: Any, suites: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Test scores of a model on these suites."""
    from embedkit.evaluation import EmbeddingCache, open_suite

    data, cache = Path(options.shared) / "data", EmbeddingCache()
    found: dict[str, Any] = {}
    for key in suites:
        suite, _, changes = key.partition(" ")
        given = {name: int(value) for name, value in (change.split("=") for change in changes.split())}
        report = open_suite(suite, str(data), settings=given).run(model, cache=cache)
        if suite == "geometry":
            found["geometry"] = {key: geometry_value(report, key) for key in ("alignment", "uniformity")}
        else:
            found[key] = {task: float(score) for task, score in report.scores.items()}
    return found


def geometry_value(report: Any, key: str) -> float:
    """A figure of the geometry suite's one task."""
    return float(report.tasks["stsb"].metrics[key])


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What two lines must share to stand in one table."""
    return {"steps": options.steps, "batch": options.batch, "backbone": options.backbone or "raw-bert-mini",
            "rate": options.rate, "threads": options.threads}  # fmt: skip


def finished(out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What `results.jsonl` says of each (method, seed) with these settings; later lines add what earlier ones lack.

    A line that a kill cut short is left out.
    """
    path = out / "results.jsonl"
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["settings"].items() >= settings(options).items():
            key = row["method"], row["seed"]
            found[key] = row | found.get(key, {})
    return list(found.values())


def row_of(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What is known of a run with these settings; empty where it is not finished."""
    rows = finished(Path(options.out), options)
    return next((row for row in rows if (row["method"], row["seed"]) == (method, seed)), {})


def transfer_key(options: argparse.Namespace) -> str:
    """Under what the scores of the transfer suite stand: "transfer", behind it the settings that were changed."""
    return " ".join(["transfer", *filter(None, options.transfer.split(","))])


def missing(row: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """The suites asked for that a run has not been scored on."""
    keys = [transfer_key(options) if suite == "transfer" else suite for suite in options.suites.split(",")]
    return [key for key in keys if key not in row]


def columns_of(rows: list[dict[str, Any]], transfer: str) -> dict[str, float | None]:
    """The figures of one table row as means over seeds; `transfer` is the key of those scores."""

    def mean(*path: str) -> float | None:
        values = []
        for row in rows:
            value: Any = row
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                values.append(float(value))
        return statistics.fmean(values) if values else None

    found = {task: mean("sts", task) for task in STS}
    found |= {"avg": mean("sts", "avg"), "dev": mean("dev"), "transfer": mean(transfer, "avg")}
    found |= {key: mean("geometry", key) for key in ("alignment", "uniformity")}
    return found | {key: mean(key) for key in ("rows_per_s", "memory_gib", "padding_share")}


def table(rows: list[dict[str, Any]], transfer: str = "transfer") -> list[dict[str, Any]]:
    """One entry a method, the untrained ones first: means, and the deviation of the STS average over seeds."""
    entries = []
    for method in (*UNTRAINED, *CASES):
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        averages = [row["sts"]["avg"] for row in own if "sts" in row]
        deviation = statistics.stdev(averages) if len(averages) >= SEVERAL else None
        entries.append({"method": method, "seeds": sorted(row["seed"] for row in own), **columns_of(own, transfer),
                        "avg_deviation": deviation, "note": CASES[method].note if method in CASES else ""})  # fmt: skip
    return entries


def markdown(entries: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The table for people."""
    known = settings(options)
    head = (
        f"{known['backbone']}, {known['steps']} steps of {known['batch']} rows, learning rate {known['rate']:g}, "
        f"threads: {known['threads']}, {time.strftime('%Y-%m-%d')}"
    )
    names = ["method", *STS, "STS average", f"over {BASE}", transfer_key(options), "alignment", "uniformity", "rows/s",
             "GiB", "padding", "seeds", "note"]  # fmt: skip
    base = next((entry["avg"] for entry in entries if entry["method"] == BASE), None)
    lines = [
        f"# Sentence methods side by side\n\n{head}\n",
        "| " + " | ".join(names) + " |",
        "|" + " --- |" * len(names),
    ]
    for entry in entries:
        spread = "" if entry["avg_deviation"] is None else f" ± {entry['avg_deviation']:.2f}"
        over = None if base is None or entry["avg"] is None else entry["avg"] - base
        cells = [entry["method"], *(_figure(entry[task], 2) for task in STS), _figure(entry["avg"], 2) + spread,
                 "" if over is None else f"{over:+.2f}", _figure(entry["transfer"], 2), _figure(entry["alignment"], 3),
                 _figure(entry["uniformity"], 3), _figure(entry["rows_per_s"], 1), _figure(entry["memory_gib"], 2),
                 "" if entry["padding_share"] is None else f"{entry['padding_share']:.1%}", str(len(entry["seeds"])),
                 entry["note"]]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def write(out: Path, options: argparse.Namespace) -> str:
    """Write both tables; the text of one."""
    entries = table(finished(out, options), transfer_key(options))
    text = markdown(entries, options)
    (out / "methods.md").write_text(text)
    (out / "methods.json").write_text(json.dumps({"settings": settings(options), "rows": entries}, indent=1) + "\n")
    return text


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", default="runs/methods")
    parser.add_argument("--methods", default=",".join(CASES), help="names separated by commas")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate of all that train the whole encoder")
    parser.add_argument("--backbone", help="folder; raw-bert-mini of the shared models when not given")
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--suites", default="sts,transfer,geometry")
    parser.add_argument("--transfer", default="", help="settings of the transfer tasks, name=number, comma between")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--one", metavar="METHOD:SEED", help="run this one in this process (used by the command itself)"
    )
    return parser


def main() -> int:
    """Run what is missing, then print the table."""
    options = arguments().parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if options.one is not None:
        method, _, seed = options.one.rpartition(":")
        line = json.dumps(run_one(method, int(seed), options))
        with (out / "results.jsonl").open("a") as file:
            file.write(line + "\n")
        return 0
    wanted = [(name, int(seed)) for seed in options.seeds.split(",") for name in options.methods.split(",")]
    unknown = [name for name, _ in wanted if name not in CASES]
    if unknown:
        raise SystemExit(f"unknown method {unknown[0]!r}; known: {', '.join(CASES)}")
    needed = [(name, 0) for name in UNTRAINED] + [(BASE, seed) for name, seed in wanted if CASES[name].needs_base]
    failed = []
    for method, seed in dict.fromkeys([*needed, *wanted]):
        if not missing(row_of(method, seed, options), options):
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--one", f"{method}:{seed}"]
        if subprocess.run(command, check=False).returncode:
            failed.append(f"{method}:{seed}")
        write(out, options)
    print(write(out, options))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
