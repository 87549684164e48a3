"""simcse-unsup from a small raw BERT on wiki sentences: seven STS tasks before and after, several seeds.

    python eval/benchmarks/simcse_wiki.py [--seeds 3] [--steps 250] [--shared ../shared] [--beside]

The backbone is raw-bert-mini (its README: a small masked-LM BERT made for such comparisons), so compare before with
after, not with published numbers. Before: the raw [CLS] and the mean of the last layer, no training. After: the
recipe's own pooler ([CLS], head in training only), best checkpoint by STS-B dev, as the recipe says. With ``--beside``
sentence-transformers trains the same backbone on the same number of sentences of the same file at the same rate, its
own way: [CLS], pairs of a sentence with itself, MultipleNegativesRankingLoss, no head, weights of the last step.
"""

from __future__ import annotations

import argparse
import gzip
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch


def with_sentence_transformers(backbone: str, text: Path, seed: int, steps: int, rate: float) -> Any:
    """A SentenceTransformer trained on pairs of equal sentences."""
    import datasets
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    with gzip.open(text, "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip()]
    chosen = random.Random(seed).sample(lines, 64 * steps)
    backbone_module = Transformer(backbone, max_seq_length=32)
    pooling = Pooling(backbone_module.get_embedding_dimension(), pooling_mode="cls")
    model = SentenceTransformer(modules=[backbone_module, pooling], device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=64, learning_rate=rate, weight_decay=0.0,
            lr_scheduler_type="linear", seed=seed, report_to=[], save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        rows = datasets.Dataset.from_dict({"anchor": chosen, "positive": chosen})
        loss = MultipleNegativesRankingLoss(model)
        SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    model.max_seq_length = 128
    return model.eval()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--beside", action="store_true", help="train with sentence-transformers too")
    arguments = parser.parse_args()
    from embedkit.config.model import ModelConfig
    from embedkit.evaluation import open_suite
    from embedkit.factory import build
    from embedkit.formats import load
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    backbone = f"{arguments.shared}/models/raw-bert-mini"
    suite = open_suite("sts", f"{arguments.shared}/data/sts")

    def row(label: str, scores: dict[str, float], note: str = "") -> None:
        print(f"{label:22}" + "".join(f"{score:8.2f}" for score in scores.values()) + f"  {note}", flush=True)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{arguments.steps} steps of 64 sentences, learning rate {arguments.lr}")
    averages = []
    for number, pooling in enumerate(("cls", "mean")):
        model = build(ModelConfig(name=backbone, pooling=pooling, max_length=128), 0).eval()
        scores = suite.run(model).scores
        if number == 0:
            print(f"{'':22}" + "".join(f"{task:>8}" for task in scores))
        row(f"before, {pooling}", scores)
    for seed in range(arguments.seeds):
        overrides = [
            f"model.name={backbone}", f"seed={seed}", f"train.lr={arguments.lr}", "train.epochs=null",
            f"train.max_steps={arguments.steps}", f"data.train.0.path={arguments.shared}/data/text/wiki.txt.gz",
            "data.train.0.file=null", f"evaluation.data={arguments.shared}/data/sts", "train.save_every=1000000",
            f"evaluation.every={max(1, arguments.steps // 2)}",
        ]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            result = train("simcse-unsup", overrides, output=f"{folder}/run", progress=Progress())
            took = time.perf_counter() - begun
            scores = suite.run(load(result.output)).scores
        averages.append(scores["avg"])
        row(f"simcse-unsup, seed {seed}", scores, f"{took:.0f} s, best step {result.best['step']}")
        if arguments.beside:
            text = Path(f"{arguments.shared}/data/text/wiki.txt.gz")
            peer = with_sentence_transformers(backbone, text, seed, arguments.steps, arguments.lr)
            row(f"its peer, seed {seed}", suite.run(peer).scores, "sentence-transformers, last step")
    spread = statistics.stdev(averages) if len(averages) > 1 else 0.0
    print(f"average {statistics.mean(averages):.2f}, deviation {spread:.2f} over {len(averages)} seeds")


if __name__ == "__main__":
    main()
