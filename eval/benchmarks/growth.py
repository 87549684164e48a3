"""How time and memory grow with texts, length and batch: encoding, mining, training and the loss alone.

    python eval/benchmarks/growth.py [--size full] [--json FILE] [--only encode] [--cpu-time]

Every cell is a process of its own: it does a few rows of the same work first, so that imports and first calls are
neither timed nor counted, then the cell's. Seconds are the median of its rounds of a whole call, set-up and files
included; with --cpu-time those of the processor on one thread, which other programs change little. Memory is what the
first round adds to the process at its peak (VmHWM, Linux). An exponent is the slope of the logarithms: 1 is linear.
Weights are random and small, texts made up and distinct, so only the growth says anything.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import multiprocessing.pool
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memory import peak_mib

STEPS = (1, 4, 16)
LINEAR = 1.1
"""An exponent up to this one counts as linear: products of larger matrices and of longer rows differ in speed."""
SPECIAL_TOKENS = 2
ATTENTION, MATRIX = "attention", "similarity matrix"


@dataclass(frozen=True)
class Work:
    """How much a cell does.

    Attributes
    ----------
    texts : int
        Texts to encode, anchors of mining, rows of an epoch, or rows of the loss.
    length : int
        Tokens of a text.
    batch : int
        Texts of a batch of `encode`, rows of a training step, candidates of a block of the search.
    corpus : int
        Candidates of mining.
    """

    texts: int
    length: int
    batch: int
    corpus: int = 0

    def times(self, what: Sequence[str], factor: int) -> Work:
        """The same with some figures multiplied."""
        return replace(self, **{name: getattr(self, name) * factor for name in what})


@dataclass(frozen=True)
class Line:
    """A line of the table: what is done, which figures grow together, and why it may grow faster than they do."""

    what: str
    grows: str
    fields: tuple[str, ...]
    start: Work
    time_above: str = ""
    memory_above: str = ""

    @property
    def name(self) -> str:
        """Both in words."""
        return f"{self.what}, {self.grows}"


@dataclass(frozen=True)
class Size:
    """The model, the lines, and how often a cell is timed: `rounds`, fewer once `seconds` are over."""

    hidden: int
    layers: int
    lines: tuple[Line, ...]
    rounds: int
    seconds: float


def _lines(encode: Work, long: Work, mine: Work, train: Work, step: Work, loss: Work) -> tuple[Line, ...]:
    """All lines; `long` is what grows in length, `step` what grows in the batch of training."""
    short = replace(mine, texts=long.texts, corpus=long.texts)
    return (
        Line("encode", "texts", ("texts",), encode),
        Line("encode", "length", ("length",), long, ATTENTION, ATTENTION),
        Line("encode", "batch", ("batch",), replace(encode, texts=16 * encode.batch)),
        Line("mine", "anchors", ("texts",), mine),
        Line("mine", "corpus", ("corpus",), mine),
        Line("mine", "anchors and corpus", ("texts", "corpus"), mine, MATRIX),
        Line("mine", "length", ("length",), short, ATTENTION, ATTENTION),
        Line("mine", "block", ("batch",), mine.times(("texts", "corpus"), 4)),
        Line("train", "rows", ("texts",), train),
        Line("train", "length", ("length",), replace(train, texts=2 * train.batch), ATTENTION, ATTENTION),
        Line("train", "batch", ("texts", "batch"), step, MATRIX),
        Line("train in chunks", "batch", ("texts", "batch"), step, MATRIX),
        Line("loss", "batch", ("texts",), loss, MATRIX),
    )


FULL = Size(
    hidden=64, layers=2, rounds=3, seconds=2.0,
    lines=_lines(
        encode=Work(3000, 16, 128), long=Work(256, 32, 64), mine=Work(1000, 16, 256, corpus=1000),
        train=Work(256, 16, 32), step=Work(3 * 64, 16, 64), loss=Work(1024, 0, 0),
    ),
)  # fmt: skip
TINY = Size(
    hidden=16, layers=1, rounds=1, seconds=0.0,
    lines=_lines(
        encode=Work(8, 6, 2), long=Work(4, 4, 2), mine=Work(6, 6, 4, corpus=6),
        train=Work(8, 4, 4), step=Work(8, 4, 4), loss=Work(8, 0, 0),
    ),
)  # fmt: skip
SIZES = {"full": FULL, "tiny": TINY}


def texts(count: int, length: int, salt: int) -> list[str]:
    """Different texts of so many tokens, those of the model at both ends included."""
    from embedkit.data.builtin import tokenizer

    words = sorted(word for word in tokenizer().get_vocab() if word.isalpha() and len(word) > 2)
    draw = random.Random(salt)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(draw.choices(words, k=length - SPECIAL_TOKENS))] = None
    return list(found)


def model_config(size: Size, longest: int) -> dict[str, Any]:
    """The `model` section of the small encoder, random weights."""
    config = {
        "model_type": "bert", "hidden_size": size.hidden, "num_hidden_layers": size.layers, "num_attention_heads": 4,
        "intermediate_size": 4 * size.hidden, "max_position_embeddings": longest,
        "initializer_range": 0.3,  # BERT's own 0.02 makes the vectors of all texts nearly equal
    }  # fmt: skip
    return {"config": config, "tokenizer": "builtin", "pooling": "mean", "max_length": longest}


def encoding(size: Size, work: Work, folder: Path) -> Callable[[], Any]:
    """`Model.encode` of a list; a batch has so many tokens on each thread."""
    from embedkit.config.model import ModelConfig
    from embedkit.factory import build

    model, given = build(ModelConfig(**model_config(size, _longest(size)))), texts(work.texts, work.length, 1)
    return lambda: model.encode(given, batch_tokens=work.batch * work.length)


def mining(size: Size, work: Work, folder: Path) -> Callable[[], Any]:
    """`embedkit.mine` of pairs among the texts of a corpus."""
    import embedkit
    from embedkit.config.model import ModelConfig
    from embedkit.factory import build

    model = build(ModelConfig(**model_config(size, _longest(size))))
    pairs = [
        {"anchor": a, "positive": b}
        for a, b in zip(texts(work.texts, work.length, 1), texts(work.texts, work.length, 2), strict=True)
    ]
    corpus = texts(work.corpus, work.length, 3)
    return lambda: embedkit.mine(pairs, model, corpus=corpus, num_negatives=2, block_size=work.batch)


def training(size: Size, work: Work, folder: Path, chunked: bool = False) -> Callable[[], Any]:
    """`train` of pairs for an epoch, from the file of rows to the saved model."""
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    rows = folder / f"rows-{work.texts}-{work.length}.jsonl"
    with rows.open("w", encoding="utf-8") as file:
        for a, b in zip(texts(work.texts, work.length, 1), texts(work.texts, work.length, 2), strict=True):
            file.write(json.dumps({"anchor": a, "positive": b}) + "\n")
    recipe = {
        "name": "growth", "method": "pairs", "data": {"train": [{"path": str(rows)}]},
        "model": model_config(size, _longest(size)),
        "train": {"epochs": 1, "batch_size": work.batch, "holdout": 0, "precision": "fp32"},
    }  # fmt: skip
    if chunked:
        recipe["train"]["chunk_tokens"] = 32 * work.length  # type: ignore[index]
    return lambda: train(recipe, output=Path(tempfile.mkdtemp(dir=folder)) / "run", progress=Progress())


def training_in_chunks(size: Size, work: Work, folder: Path) -> Callable[[], Any]:
    """The same through the gradient cache, in chunks of one size."""
    return training(size, work, folder, chunked=True)


def loss(size: Size, work: Work, folder: Path) -> Callable[[], Any]:
    """InfoNCE of two views, forward and backward, as a recipe has it: tiles of its own choice."""
    import torch

    from embedkit.objectives import ObjectiveBatch, build

    torch.manual_seed(0)
    views = {name: torch.randn(work.texts, 4 * size.hidden, requires_grad=True) for name in ("anchor", "positive")}
    objective = build({"name": "infonce", "temperature": 0.1})
    return lambda: objective(views, ObjectiveBatch.of(views)).loss.backward()


WORKS: dict[str, Callable[[Size, Work, Path], Callable[[], Any]]] = {
    "encode": encoding, "mine": mining, "train": training, "train in chunks": training_in_chunks, "loss": loss,
}  # fmt: skip


def _longest(size: Size) -> int:
    """More tokens than any text has."""
    return 1 + max(line.start.length * (STEPS[-1] if "length" in line.fields else 1) for line in size.lines)


def resident_mib() -> float:
    """What of this process is in memory now, MiB."""
    from embedkit.system.memory import resident_bytes

    return resident_bytes() / 2**20


def cell(size: Size, line: Line, step: int, cpu_time: bool = False) -> dict[str, Any]:
    """Seconds and MiB of one cell, in this process."""
    clock = time.perf_counter
    if cpu_time:
        import torch

        torch.set_num_threads(1)
        clock = time.process_time
    with tempfile.TemporaryDirectory() as kept:
        make = WORKS[line.what]
        make(size, Work(16, 8, 8, corpus=16), Path(kept))()
        run = make(size, line.start.times(line.fields, step), Path(kept))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, at what is resident
        before, rounds = resident_mib(), []
        memory = 0.0
        for number in range(size.rounds):
            started = clock()
            run()
            rounds.append(clock() - started)
            memory = memory if number else peak_mib() - before
            if sum(rounds) > size.seconds:
                break
    return {"seconds": statistics.median(rounds), "mib": max(0.0, memory)}


def processes() -> multiprocessing.pool.Pool:
    """What runs each call in a new process, forked from one that has the libraries imported and nothing computed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.models.bert.modeling_bert", "embedkit.factory.text",
                                    "embedkit.training.loop.run", "embedkit.mining.api"])  # fmt: skip
    return context.Pool(1, maxtasksperchild=1)


def exponent(values: Sequence[float], steps: Sequence[int]) -> float | None:
    """The slope of the logarithms from the first to the last; None where a value is too small to say."""
    if min(values) <= 0:
        return None
    return math.log(values[-1] / values[0]) / math.log(steps[-1] / steps[0])


def row_of(line: Line, cells: Sequence[Mapping[str, Any]], steps: Sequence[int] = STEPS) -> dict[str, Any]:
    """A line's figures and exponents, of the last two cells and overall, and what grows faster than it may."""
    row: dict[str, Any] = {"work": line.what, "grows": line.grows, "start": vars(line.start), "too_fast": []}
    for name, reason in (("seconds", line.time_above), ("mib", line.memory_above)):
        values = [one[name] for one in cells]
        last, overall = exponent(values[-2:], steps[-2:]), exponent(values, steps)
        row |= {name: values, f"{name}_last": last, f"{name}_overall": overall}
        if not reason and last is not None and last > LINEAR:
            row["too_fast"].append(name)
    return row


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""

    def exponents(row: Mapping[str, Any], name: str) -> str:
        found = [row[f"{name}_last"], row[f"{name}_overall"]]
        return " / ".join("-" if value is None else f"{value:.2f}" for value in found)

    scales = ", ".join(f"{step}x" for step in STEPS)
    lines = [f"| work | what grows | seconds at {scales} | exponent, last / overall | MiB at {scales} | exponent |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        seconds = ", ".join(f"{value:.3g}" for value in row["seconds"])
        mib = ", ".join(f"{value:.1f}" for value in row["mib"])
        lines.append(f"| {row['work']} | {row['grows']} | {seconds} | {exponents(row, 'seconds')} | {mib} | "
                     f"{exponents(row, 'mib')} |")  # fmt: skip
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status is 1 where something grows faster than it may."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--only", help="the name of one work")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor, on one thread")
    options = parser.parse_args(given)
    rows, size = [], SIZES[options.size]
    with processes() as apart:
        for line in (line for line in size.lines if options.only in (None, line.what)):
            rows.append(row_of(line, [apart.apply(cell, (size, line, step, options.cpu_time)) for step in STEPS]))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"\n{table(rows)}\n")
    for row in rows:
        for name in row["too_fast"]:
            print(f"above linear: {row['work']}, {row['grows']}: {name}, exponent {row[f'{name}_last']:.2f}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any(row["too_fast"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
