"""simcse-unsup from a small raw BERT on wiki sentences: seven STS tasks before and after, several seeds.

    python eval/benchmarks/simcse_wiki.py [--seeds 3] [--steps 250] [--shared ../shared] [--beside] [--tasks stsb]

The backbone is raw-bert-mini (its README: a small masked-LM BERT made for such comparisons), so compare before with
after, not with published numbers. Before: the raw [CLS] and the mean of the last layer, no training. After: the
recipe's own pooler ([CLS], head in training only), best checkpoint by STS-B dev, as the recipe says. With ``--beside``
the same backbone is trained at the same rate on the same sentences (a draw of the file by the seed, in an order of each
trainer's own) in two more ways: by embedkit without the head, weights of the last step, and by sentence-transformers:
[CLS], pairs of a sentence with itself, MultipleNegativesRankingLoss, no head, weights of the last step.
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


def draw(text: Path, seed: int, count: int) -> list[str]:
    """`count` different lines of a file."""
    with gzip.open(text, "rt", encoding="utf-8") if text.suffix == ".gz" else text.open(encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip()]
    return random.Random(seed).sample(lines, count)


def with_sentence_transformers(backbone: str, chosen: list[str], seed: int, steps: int, rate: float) -> Any:
    """A SentenceTransformer trained on pairs of equal sentences."""
    import datasets
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

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


def with_embedkit(backbone: str, chosen: list[str], seed: int, options: argparse.Namespace, own: bool) -> Any:
    """The run of simcse-unsup on these sentences; not `own`: without the head, weights of the last step."""
    from embedkit.formats import load
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "sentences.txt"
        text.write_text("\n".join(chosen) + "\n", encoding="utf-8")
        overrides = [
            f"model.name={backbone}", f"seed={seed}", f"train.lr={options.lr}", "train.epochs=null",
            f"train.max_steps={options.steps}", f"data.train.0.path={text}", "data.train.0.file=null",
            f"evaluation.data={options.shared}/data/sts", "train.save_every=1000000",
            f"evaluation.every={max(1, options.steps // 2)}",
        ]  # fmt: skip
        if not own:
            overrides += ["model.head=null", "evaluation=null"]
        result = train("simcse-unsup", overrides, output=f"{folder}/run", progress=Progress())
        return load(result.output), result.best.get("step", options.steps)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--backbone", help="folder; raw-bert-mini of the shared models when not given")
    parser.add_argument("--text", help="sentences, one a line; the Wikipedia ones of the shared data when not given")
    parser.add_argument("--tasks", help="STS tasks, comma between; all seven when not given")
    parser.add_argument("--beside", action="store_true", help="train without the head, and with sentence-transformers")
    options = parser.parse_args()
    from embedkit.config.model import ModelConfig
    from embedkit.evaluation import open_suite
    from embedkit.factory import build

    backbone = options.backbone or f"{options.shared}/models/raw-bert-mini"
    tasks = options.tasks.split(",") if options.tasks else None
    suite = open_suite("sts", f"{options.shared}/data/sts", tasks=tasks)

    def row(label: str, model: Any, note: str = "") -> dict[str, float]:
        scores: dict[str, float] = suite.run(model).scores
        print(f"{label:30}" + "".join(f"{score:8.2f}" for score in scores.values()) + f"  {note}", flush=True)
        return scores

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{options.steps} steps of 64 sentences, learning rate {options.lr}")
    print(f"columns: {', '.join(tasks or ['sts12-16', 'stsb', 'sickr'])}, the average where there are several")
    averages = []
    for pooling in ("cls", "mean"):
        row(f"before, {pooling}", build(ModelConfig(name=backbone, pooling=pooling, max_length=128), 0).eval())
    for seed in range(options.seeds):
        chosen = draw(Path(options.text or f"{options.shared}/data/text/wiki.txt.gz"), seed, 64 * options.steps)
        begun = time.perf_counter()
        model, best = with_embedkit(backbone, chosen, seed, options, own=True)
        scores = row(f"simcse-unsup, seed {seed}", model, f"{time.perf_counter() - begun:.0f} s, best step {best}")
        averages.append(scores.get("avg", scores[next(iter(scores))]))
        if options.beside:
            model, _ = with_embedkit(backbone, chosen, seed, options, own=False)
            row(f"without head, seed {seed}", model, "embedkit, last step")
            peer = with_sentence_transformers(backbone, chosen, seed, options.steps, options.lr)
            row(f"its peer, seed {seed}", peer, "sentence-transformers, last step")
    spread = statistics.stdev(averages) if len(averages) > 1 else 0.0
    print(f"average {statistics.mean(averages):.2f}, deviation {spread:.2f} over {len(averages)} seeds")


if __name__ == "__main__":
    main()
