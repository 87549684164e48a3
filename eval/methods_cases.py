"""What `eval/methods.py` runs: methods, what is changed in their recipes, their data and learning rates."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE = "simcse-unsup"
SEARCHED = "searched"
BASE_UNITS = 6.0  # two texts a row, forward 1 and backward 2 each


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
        Whether the three learning rates lie around the recipe's: where the encoder is frozen or not a transformer.
    overrides : tuple of str
        Further changes, ``dotted.key=value``; ``{BASE}`` is the folder of the same seed's simcse-unsup model,
        ``{BACKBONE}`` that of the backbone.
    units : float
        What a row costs by count: 1 for each text forward through the encoder, 2 for its way back.
    tokens : int
        How many tokens the method adds to each text.
    note : str
        What differs from the published setting besides data, backbone, batch, steps and rate.
    """

    recipe: str
    data: str = "text"
    own_rate: bool = False
    overrides: tuple[str, ...] = ()
    units: float = BASE_UNITS
    tokens: int = 0
    note: str = ""

    @property
    def needs_base(self) -> bool:
        """Whether a finished simcse-unsup run of the same seed must be there."""
        return any("{BASE}" in change for change in self.overrides)


FROM_BACKBONE = ("model.config=null", "model.tokenizer=null")
"""In the recipe of a method that trains from scratch."""

CASES: dict[str, Case] = {
    BASE: Case(BASE),
    "simcse-mean": Case(
        BASE, overrides=("model.pooling=mean", "model.head=null"), note="mean of the last layer, no head"
    ),
    "consert": Case("consert"),
    "views": Case("views", note="word repetition in the second view (ESimCSE)"),
    "promptbert-unsup": Case("promptbert-unsup", tokens=9),
    "diffcse": Case(
        "diffcse", overrides=("method.generator={BACKBONE}",), units=14, note="generator: the backbone itself",
    ),
    "sct": Case(
        "sct", data="paraphrases", overrides=("objective.size=4096",), units=8,
        note="pairs: aligned Wikipedia sentences, for there are no back-translations here; queue 4096",
    ),
    "sg-opt": Case("sg-opt", overrides=("method.hidden=512",), units=4, note="the table's sentences; head 512"),
    "macl": Case("macl", note="alpha and offset of the paper not verified"),
    "dclr": Case(
        "dclr", overrides=("guide.model.name={BASE}", "guide.model.head=null", "guide.dropout=false",
                           "model.head={train_only: true}"), units=8,
        note="complementary model: simcse-unsup of the same seed, its [CLS] without dropout; no pooler there",
    ),
    "micse": Case("micse", overrides=("method.layers=null",), note="layers: the default for this depth"),
    "simcse-unsup-mlm": Case("simcse-unsup-mlm", units=12),
    "promcse": Case("promcse-unsup", own_rate=True, units=4, tokens=16, note="the encoder is frozen"),
    "promptbert-opti": Case("promptbert-opti", own_rate=True, units=4, tokens=9, note="the encoder is frozen"),
    "mcse": Case("mcse-flickr", data="captions", overrides=("method.size=192",), note="features: 8 x 8 pixels"),
    "sent2vec": Case("sent2vec", own_rate=True, note="a static encoder from scratch; few steps are little for it"),
    "mlm": Case(
        "mlm-small", overrides=FROM_BACKBONE, units=3,
        note="masked words alone, no contrast",
    ),
    "clusterns": Case("clusterns", overrides=("objective.clusters=16",), note="16 clusters: half of a batch"),
    "whitenedcse": Case("whitenedcse", overrides=("method.groups=64",), units=9, note="64 groups of features"),
    "unsee": Case(
        "unsee", overrides=("method.expansion=4",), units=8, note="VICReg; the predictor 4 times as wide, not 10"
    ),
    "compcse": Case("compcse", units=9, note="sentences cut at random places, no partition file"),
    "clear": Case(
        "clear", overrides=FROM_BACKBONE, units=12,
        note="from the backbone, not from scratch; constants from memory of the paper",
    ),
    "tsdae": Case("tsdae", units=6, note="a text and its decoder"),
    "denosent": Case(
        "denosent", data="paraphrases", overrides=("method.layers=2", "method.inner=512", "train.warmup=0"),
        units=9, tokens=7, note="two decoder layers; pairs: aligned Wikipedia sentences",
    ),
    "contrastive-tension": Case("contrastive-tension"),
    "simctg-term": Case("simctg-term", units=12, note="the term reads its own two texts"),
    "topic-moco": Case("topic-moco", note="50 topics"),
    "cda": Case("cda", overrides=("model.max_length=64",), units=12, note="documents are sentences here"),
    "supcl-seq": Case("supcl-seq", data="classes", overrides=("model.pooling=cls",), units=12,
                      note="NLI premises with the label of their pair"),
    "quick-thoughts": Case("quick-thoughts", data="documents", overrides=FROM_BACKBONE,
                           note="from the backbone; documents are 12 sentences in a row"),
    "cpc": Case("cpc", data="documents", overrides=FROM_BACKBONE, units=3,
                note="documents are 12 sentences in a row"),
    "adaptive-layers": Case("adaptive-layers", data="paraphrases", note="pairs: aligned Wikipedia sentences"),
    "matryoshka-2d": Case("matryoshka-2d", data="paraphrases", overrides=("objective.objective.dims=[64,32]",),
                          note="pairs: aligned Wikipedia sentences"),
    "simcse-sup": Case("simcse-sup", data="triplets", units=9),
    "promptbert-sup": Case("promptbert-sup", data="triplets", units=9, tokens=9),
    "promcse-sup": Case(
        "promcse-sup", data="triplets", own_rate=True, units=6, tokens=16, note="the encoder is frozen"
    ),
    "consert-sup": Case("consert-joint", data="labelled", units=12, note="labelled NLI pairs"),
}  # fmt: skip

UNTRAINED = {"untrained-cls": ("cls", None), "untrained-mean": ("mean", None), "untrained-last-two": ("last-two", None),
             "untrained-prompt": ("mask", 'This sentence : "{.}" means [MASK].')}  # fmt: skip
"""Rows of the backbone as it is: pooling and prompt; they have no seed."""


def cases(out: Path) -> dict[str, Case]:
    """`CASES`, and the recipe that `eval/methods_search.py` found, where it has run."""
    path = out / "search.json"
    if not path.exists():
        return CASES
    found = json.loads(path.read_text())
    searched = Case("views", overrides=tuple(found["overrides"]), units=found["units"], note=found["note"])
    return {BASE: CASES[BASE], SEARCHED: searched} | CASES


def rates_of(method: str, options: argparse.Namespace) -> list[float]:
    """The learning rates that are tried."""
    from embedkit.config.recipe_io import load_recipe

    case = cases(Path(options.out))[method]
    if method == SEARCHED:  # its rate was a part of the search
        return [float(json.loads((Path(options.out) / "search.json").read_text())["rate"])]
    if case.own_rate:
        own = load_recipe(case.recipe).train.lr
        return [float(f"{own * factor:.3g}") for factor in (1 / 3, 1, 3)]
    return [float(rate) for rate in options.rates.split(",")]


def sources(kind: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The entries of ``data.train``."""
    shared, out = Path(options.shared), Path(options.out)
    data = shared / "data"
    text = {"path": str(text_of(options)), "columns": {"text": "anchor"}}
    if kind == "text":
        return [text]
    if kind == "captions":
        columns = {"caption": "anchor", "features": "features"}
        return [text, {"path": str(caption_features(shared, out)), "columns": columns}]
    if kind == "labelled":
        return [{"path": str(labelled_pairs(shared, out))}]
    if kind == "classes":
        return [{"path": str(labelled_pairs(shared, out)), "columns": {"anchor": "anchor", "label": "label"}}]
    if kind == "documents":
        return [{"path": str(documents(options))}]
    clean = {"split": "train", "sts_overlap": False}
    if kind == "triplets":
        columns = {"anchor": "anchor", "positive": "positive", "negative": "negative_1"}
        return [{"path": str(data / "nli" / "nli_triplets.parquet"), "columns": columns, "where": clean}]
    columns = {"sentence1": "anchor", "sentence2": "positive"}
    return [{"path": str(data / "paraphrase" / "wiki_paraphrase.parquet"), "columns": columns, "where": clean}]


def first_texts(kind: str, options: argparse.Namespace, count: int = 1000) -> list[str]:
    """The first anchors of a source."""
    import pyarrow.parquet as pq

    source = sources(kind, options)[0]
    if source["path"].endswith(".parquet"):
        column = next(name for name, role in source.get("columns", {"anchor": "anchor"}).items() if role == "anchor")
        return [str(text) for text in pq.read_table(source["path"], columns=[column])[column][:count].to_pylist()]
    path = text_of(options) if kind == "documents" else Path(source["path"])
    return path.read_text(encoding="utf-8").splitlines()[:count]


def documents(options: argparse.Namespace, sentences: int = 12) -> Path:
    """The sentences without labels as rows of a few that stand one after another: documents in form alone."""
    path = Path(options.out) / "documents.jsonl"
    if not path.exists():
        lines = text_of(options).read_text(encoding="utf-8").splitlines()
        rows = [json.dumps({"sentences": lines[at : at + sentences]}) for at in range(0, len(lines), sentences)]
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


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


def overrides_of(
    case: Case, rate: float, seed: int, options: argparse.Namespace, base: Path | None = None
) -> list[str]:
    """What is changed in the case's recipe; `base` is the run of simcse-unsup that the case reads, if it does."""
    shared = Path(options.shared)
    changes: dict[str, Any] = {
        "seed": seed, "train.epochs": None, "train.max_steps": options.steps, "train.batch_size": options.batch,
        "train.bias_correction": True, "train.lr": rate,
        "train.chunk_tokens": None, "train.save_every": max(1, options.steps // 4),
        "train.log_every": max(1, options.steps // 10),
        "data.train": sources(case.data, options), "data.drop_last": True, "evaluation.suite": "sts",
        "evaluation.tasks": ["stsb"], "evaluation.split": "dev", "evaluation.metric": "sts/stsb",
        "evaluation.vectors": None,
        "evaluation.data": str(shared / "data" / "sts"), "evaluation.every": max(1, options.steps // 4),
    }  # fmt: skip
    if case.recipe != "sent2vec":
        changes["model.name"] = str(backbone(options))
    else:
        tokenizer = shared / "data" / "tokenizers" / "bert-base-uncased" / "vocab.txt"
        changes |= {"model.tokenizer": str(tokenizer), "method.frequencies": str(text_of(options))}
    names = {"{BASE}": str(base / "model") if base else "", "{BACKBONE}": str(backbone(options))}
    own = list(case.overrides)
    for key, value in names.items():
        own = [change.replace(key, value) for change in own]
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()] + own


def backbone(options: argparse.Namespace) -> Path:
    """Folder of the model that all methods but the static ones start from."""
    return Path(options.backbone)


def text_of(options: argparse.Namespace) -> Path:
    """The sentences without labels, one a line."""
    return Path(options.text) if options.text else backbone(options).parent / "short.txt"
