"""A small raw BERT from random weights, for `eval/methods.py`: nothing in it has ever seen a pair of sentences.

    python eval/raw_backbone.py --out runs/backbone [--layers 2] [--width 128] [--steps 6000] [--shared ../shared]

Made in OUT: `sentences.txt` (the Wikipedia and news sentences and the captions of ../shared/data, without those of the
STS sets), `short.txt` (those of 4 to 10 words, the captions two an image: what the methods train on), `tokenizer` (word
pieces of these texts, lower case), `start` (random weights, but word vectors that are the first singular vectors of the
positive pointwise mutual information of word pieces within five places of each other: few tokens of masked words then
suffice), `run` (recipe `mlm-small`; goes on from its checkpoint when started again) and `model`. The last lines say
what masked words alone give: Spearman on STS-B dev of [CLS] and of the mean, before any contrastive training.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHORT = range(4, 11)  # words
WINDOW = 5  # places to either side within which two word pieces occur together
DEVIATION = 0.05  # of the word vectors at the start; positions have BERT's 0.02
AN_IMAGE = 2  # captions of one image among the short texts: more would be positives taken for negatives


def captions(shared: Path) -> Iterator[list[str]]:
    """The captions of one image after another, none of them in an STS test set."""
    import pyarrow.parquet as pq

    for path in sorted((shared / "data" / "captions").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            if not row["sts_overlap"]:
                yield [" ".join(caption.replace(" .", ".").split()) for caption in row["captions"]]


def shuffled(lines: list[str]) -> list[str]:
    """Distinct lines in an order that depends on their words alone."""
    return sorted(set(lines), key=lambda line: hashlib.md5(line.encode(), usedforsecurity=False).digest())


def write_texts(shared: Path, out: Path, limit: int | None = None) -> tuple[Path, Path]:
    """Write `sentences.txt` and `short.txt` unless they are there; `limit` keeps the first rows of each."""
    every, short = out / "sentences.txt", out / "short.txt"
    if every.exists() and short.exists():
        return every, short
    lines: list[str] = []
    for name in ("news", "wiki"):
        with gzip.open(shared / "data" / "text" / f"{name}.txt.gz", "rt", encoding="utf-8") as file:
            lines += [line.strip() for line in file if line.strip()]
    few = [line for line in lines if len(line.split()) in SHORT]
    for image in captions(shared):
        lines += image
        few += [caption for caption in image if len(caption.split()) in SHORT][:AN_IMAGE]
    for path, rows in ((every, lines), (short, few)):
        path.write_text("\n".join(shuffled(rows)[:limit]) + "\n", encoding="utf-8")
    return every, short


def write_tokenizer(text: Path, folder: Path, size: int) -> Path:
    """Train word pieces on a file and write them as transformers' BERT tokenizer."""
    if (folder / "tokenizer_config.json").exists():
        return folder
    import tokenizers
    import transformers

    trained = tokenizers.BertWordPieceTokenizer(lowercase=True)
    trained.train([str(text)], vocab_size=size, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    trained.save_model(str(folder))
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    return folder


def information(row: Any, size: int, window: int = WINDOW) -> Any:
    """Positive pointwise mutual information (V, V), float32, of the ids below `size` that stand near each other.

    Contexts are smoothed by the power 0.75 (Levy et al. 2015). `row` (N,) holds the ids of all texts, `size` itself as
    a border: nothing is counted with it, so `window` of them keep two texts apart.
    """
    import numpy as np

    counts = np.zeros((size + 1) ** 2, dtype=np.float32)
    for distance in range(1, window + 1):
        counts += np.bincount(row[:-distance] * (size + 1) + row[distance:], minlength=len(counts))
    table = counts.reshape(size + 1, size + 1)[:size, :size]
    table = table + table.T
    total = table.sum(axis=1)
    smooth = total**0.75
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log(table / (total[:, None] * smooth[None, :] / smooth.sum()))
    return np.maximum(np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0), 0.0)


def word_vectors(text: Path, tokenizer: Any, width: int) -> Any:
    """Vectors (V, width) of word pieces: truncated SVD of their `information`, centred, all of one deviation."""
    import numpy as np
    from sklearn.utils.extmath import randomized_svd

    ids: list[int] = []
    for line in text.read_text(encoding="utf-8").splitlines():
        ids += tokenizer.backend_tokenizer.encode(line, add_special_tokens=False).ids
        ids += [len(tokenizer)] * WINDOW
    table = information(np.array(ids, dtype=np.int64), len(tokenizer))
    left, values, _ = randomized_svd(table, n_components=width, n_iter=4, random_state=0)
    vectors = left * np.sqrt(values)
    return (vectors - vectors.mean(axis=0)) * (DEVIATION / vectors.std())


def write_start(text: Path, out: Path, options: argparse.Namespace) -> Path:
    """The untrained model with its word vectors, as a folder of transformers."""
    folder = out / "start"
    if (folder / "config.json").exists():
        return folder
    import torch
    import transformers

    tokenizer = transformers.BertTokenizerFast.from_pretrained(
        write_tokenizer(text, out / "tokenizer", options.vocabulary)
    )
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=options.width, num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.width // 64), intermediate_size=4 * options.width,
        max_position_embeddings=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ))  # fmt: skip
    vectors = torch.from_numpy(word_vectors(text, tokenizer, options.width))
    known = vectors.abs().sum(dim=1) > 0
    model.get_input_embeddings().weight.data[known] = vectors[known].float()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train_backbone(options: argparse.Namespace) -> Path:
    """Train it by masked words, or go on with that; the model's folder."""
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    every, _ = write_texts(Path(options.shared), out, options.limit)
    changes = {
        "model.name": str(write_start(every, out, options)), "model.config": None, "model.tokenizer": None,
        "method.rate": options.mask_rate, "data.train": [{"path": str(every), "columns": {"text": "anchor"}}],
        "train.epochs": None, "train.max_steps": options.steps, "train.batch_size": options.batch,
        "train.lr": options.rate, "train.save_every": max(1, options.steps // 20),
        "train.log_every": max(1, options.steps // 60),
    }  # fmt: skip
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    result = train("mlm-small", overrides, output=out / "run", resume=True, progress=Progress())
    shutil.copytree(result.output, out / "model", dirs_exist_ok=True)
    restore_dropout(out / "model")
    return out / "model"


def restore_dropout(folder: Path) -> None:
    """BERT's dropout, left out while the few tokens at hand were guessed; the methods' views are made of it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    path.write_text(json.dumps(config, indent=2) + "\n")


def dev_scores(folder: Path, shared: Path) -> dict[str, float]:
    """Spearman on STS-B dev of the model as it is, by pooling."""
    from embedkit.evaluation import open_suite
    from embedkit.formats import load

    model = load(folder)
    suite = open_suite("sts", str(shared / "data" / "sts"), tasks=["stsb"], split="dev")
    found = {}
    for pooling in ("cls", "mean"):
        model.pooling = pooling
        found[pooling] = float(suite.run(model).scores["stsb"])
    return found


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", default="runs/backbone")
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--mask-rate", type=float, default=0.2)
    parser.add_argument("--limit", type=int, help="the first sentences only (for trials)")
    return parser


def main() -> int:
    """Train and score."""
    options = arguments().parse_args()
    folder = train_backbone(options)
    for pooling, score in dev_scores(folder, Path(options.shared)).items():
        print(f"{folder}: STS-B dev, {pooling}: {score:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
