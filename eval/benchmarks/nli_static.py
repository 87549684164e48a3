"""nli-static beside sentence-transformers' StaticEmbedding with MultipleNegativesRankingLoss: wall time and STS scores.

    python eval/benchmarks/nli_static.py [--rounds 1] [--epochs 2] [--data ../shared/data]

Same rows (NLI triplets, entailment pairs, Flickr30k caption pairs; rows that share a sentence with an STS test set are
dropped), tokenizer, size of vectors, batch, epochs, learning rate, warm-up and temperature. Wall time is from nothing
loaded but the libraries to the trained model: reading and tokenising are part of it in both. Scores are the seven STS
tasks by embedkit's own suite for both models. `--epochs 0.25` is a short run, which shows speed and not quality. Run
it from a folder beside ``shared``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch


def ours(folder: Path, epochs: float) -> tuple[float, Any]:
    """Seconds of the recipe without its evaluation, and the trained model."""
    from embedkit.formats import load
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    begun = time.perf_counter()
    result = train(
        "nli-static", ["evaluation=null", f"train.epochs={epochs}"], output=folder / "run", progress=Progress()
    )
    return time.perf_counter() - begun, load(result.output)


def datasets_of(recipe: Any) -> dict[str, Any]:
    """The recipe's rows as sentence-transformers wants them: one data set of triplets, one of pairs."""
    from datasets import Dataset

    from embedkit.training import setup

    rows = setup.open_rows(recipe, setup.check(recipe))
    triplets, pairs = [], []
    for batch in rows.batches(0):
        for row in batch.rows:
            base = {"anchor": row["anchor"], "positive": row["positive"]}
            hard = {f"negative_{number}": text for number, text in enumerate(row["negatives"])}
            (triplets if hard else pairs).append(base | hard)
    return {"triplets": Dataset.from_list(triplets), "pairs": Dataset.from_list(pairs)}


class Encoder:
    """A sentence-transformers model as embedkit's suites want it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def encode(self, texts: list[str]) -> Any:
        """Vectors of texts."""
        return self.model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)


def theirs(folder: Path, epochs: float) -> tuple[float, Any]:
    """Seconds of sentence-transformers' trainer on the same rows, and the trained model."""
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.models import StaticEmbedding
    from transformers import BertTokenizerFast

    from embedkit.config.recipe_io import load_recipe
    from embedkit.methods import methods

    recipe = load_recipe("nli-static")
    begun = time.perf_counter()
    tokenizer = BertTokenizerFast(vocab=str(recipe.model.tokenizer)).backend_tokenizer
    data = datasets_of(recipe)
    torch.manual_seed(recipe.seed)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=recipe.model.dim)], device="cpu")
    temperature = dict(methods[recipe.method.name].objective)["temperature"]
    if recipe.objective is not None:
        temperature = recipe.objective.settings.get("temperature", temperature)
    arguments = Arguments(
        str(folder), num_train_epochs=epochs, per_device_train_batch_size=recipe.train.batch_size,
        learning_rate=recipe.train.lr, warmup_steps=recipe.train.warmup, save_strategy="no", logging_strategy="no",
        report_to=[], disable_tqdm=True, use_cpu=True, seed=recipe.seed,
    )  # fmt: skip
    loss = MultipleNegativesRankingLoss(model, scale=1.0 / temperature)
    SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss).train()
    return time.perf_counter() - begun, Encoder(model)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--data", default="../shared/data")
    arguments = parser.parse_args()
    from embedkit.evaluation import open_suite

    suite = open_suite("sts", f"{arguments.data}/sts")
    seconds: dict[str, list[float]] = {}
    scores: dict[str, dict[str, float]] = {}
    for _ in range(arguments.rounds):
        for name, run in (("embedkit", ours), ("sentence-transformers", theirs)):
            with tempfile.TemporaryDirectory() as folder:
                took, model = run(Path(folder), arguments.epochs)
                print(f"{name}: {took:.1f} s", flush=True)
                seconds.setdefault(name, []).append(took)
                scores[name] = suite.run(model).scores
    print(f"{'':24}" + "".join(f"{task:>8}" for task in next(iter(scores.values()))) + f"{'wall s':>9}")
    for name, found in scores.items():
        shown = "".join(f"{score:8.2f}" for score in found.values())
        print(f"{name:24}{shown}{statistics.median(seconds[name]):9.1f}")
    ratio = statistics.median(seconds["sentence-transformers"]) / statistics.median(seconds["embedkit"])
    print(f"sentence-transformers takes {ratio:.2f} x the time")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
