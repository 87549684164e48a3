"""Scores and losses of a training epoch beside sentence-transformers: same rows, model, batch, rate; three seeds.

    python eval/benchmarks/training_scores.py [--rows 3200] [--seeds 3] [--data ../shared/data]

What training.py times, run to the end of an epoch: all-MiniLM-L6-v2 on NLI triplets by embedkit (fp32, and bf16 where
the CPU has it) and by sentence-transformers with its defaults. Each toolkit draws its own order and dropout, so a
seed's figures differ; what is compared are means over seeds and their spread: STS-B test (Spearman x 100) after the
epoch, and the mean of the losses of all steps. Nothing here is a time, so it may run beside other work.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from encode import spearman, sts_rows
from training import BATCH, Ours, Theirs, model_folder, triplets


def our_run(data: str, precision: str, seed: int, rows: list[dict[str, str]]) -> tuple[list[float], float]:
    """Losses of all steps, and the score."""
    from embedkit.formats import load
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    losses: list[float] = []

    class Losses(Progress):
        def step(self, step: int, figures: Mapping[str, float] | None) -> None:
            assert figures is not None
            losses.append(figures["loss"])

    recipe = Ours(model_folder(), data, 0, precision).recipe
    recipe = {**recipe, "seed": seed, "train": {**recipe["train"], "log_every": 1}}
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, output=f"{folder}/run", progress=Losses())
        model = load(f"{folder}/run/model")
        return losses, spearman(lambda texts: model.encode(texts), rows)


def their_run(train_rows: list[dict[str, str]], seed: int, rows: list[dict[str, str]]) -> tuple[list[float], float]:
    """Losses of all steps, and the score."""
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    run = Theirs(model_folder(), train_rows, 0, best=False)
    model = run.model()
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=2e-5, save_strategy="no",
            report_to=[], disable_tqdm=True, logging_steps=1, use_cpu=True, seed=seed,
        )  # fmt: skip
        trainer = SentenceTransformerTrainer(
            model, arguments, train_dataset=run.data, loss=MultipleNegativesRankingLoss(model, scale=20.0)
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, spearman(lambda texts: np.asarray(model.encode(texts, show_progress_bar=False)), rows)


def main() -> None:
    """Print a row a run, and the means."""
    from embedkit.system.cpu import cpu_has_bf16

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50 * BATCH)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    train_rows = triplets(str(options.data / "nli" / "nli_triplets.parquet"), options.rows // BATCH * BATCH)
    test = sts_rows(options.data)
    found: dict[str, list[tuple[float, float]]] = {}
    print(f"{len(train_rows)} rows, {len(train_rows) // BATCH} steps", flush=True)
    with tempfile.TemporaryDirectory() as kept:
        file = f"{kept}/rows.parquet"
        pq.write_table(pa.Table.from_pylist(train_rows), file)
        for seed in range(options.seeds):
            runs: dict[str, Any] = {"sentence-transformers fp32": their_run(train_rows, seed, test)}
            for precision in ("fp32", "bf16") if cpu_has_bf16() else ("fp32",):
                runs[f"embedkit {precision}"] = our_run(file, precision, seed, test)
            for name, (losses, score) in runs.items():
                found.setdefault(name, []).append((statistics.mean(losses), score))
                print(f"seed {seed}, {name}: loss {found[name][-1][0]:.4f}, STS-B {score:.2f}", flush=True)
    print("| | loss, mean | spread | STS-B test | spread |\n|---|---|---|---|---|")
    for name, pairs in found.items():
        loss, score = zip(*pairs, strict=True)
        figures = [f"{statistics.mean(x):.{d}f} | {max(x) - min(x):.{d}f}" for x, d in ((loss, 4), (score, 2))]
        print(f"| {name} | {figures[0]} | {figures[1]} |")


if __name__ == "__main__":
    main()
