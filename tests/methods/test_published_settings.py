"""The shipped recipes of published sentence methods have the published settings.

The table is written from the collected reference (`../shared/reference/sentence-methods-1.md` and `-2.md`, sections in
the comments) and, where it is said, from the official code, never from the recipes. None: neither says it. Numbers for
several processes are totals: 4 x 64 is 256. Where a recipe and the table differ, one of them is wrong: find out which.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkit.config.recipe import Recipe
from embedkit.config.recipe_io import load_recipe
from embedkit.methods import methods
from embedkit.methods.base import Method
from embedkit.training import setup

ROOT = Path(__file__).parents[2]
FAMILIES = (
    "simcse-", "diffcse", "promptbert-", "consert", "sbert-nli", "promcse-", "dclr", "sct", "sg-opt", "micse", "macl",
    "mcse-", "quick-thoughts", "declutr", "time-control", "conpono", "discourse", "cda", "cpc",
    "clusterns", "whitenedcse", "unsee", "clear", "compcse", "csd", "parallel-lines",
    "denosent", "tsdae", "contrastive-tension",
    "supcl-seq", "lm-supcon",
)  # fmt: skip

KEYS = {
    "name": "model.name", "lr": "train.lr", "batch": "train.batch_size", "epochs": "train.epochs",
    "length": "model.max_length", "decay": "train.weight_decay", "warmup": "train.warmup",
    "schedule": "train.schedule", "betas": "train.betas", "eps": "train.eps", "correction": "train.bias_correction",
    "clip": "train.max_grad_norm", "last": "data.drop_last", "every": "evaluation.every", "metric": "evaluation.metric",
    "seed": "seed", "pooling": "model.pooling",
}  # fmt: skip
"""The cells that stand in the recipe as they are; a key with a dot is its own. The others are made by `effective`."""
MADE = ("temperature", "precision", "pooling in training", "head", "evaluation.vectors")

Row = dict[str, Any]


def row(base: Row, lr: float | None, batch: int | None, epochs: float | None, name: str = "", **more: Any) -> Row:
    """A line of the table: `base` with other cells over it."""
    return {**base, **({"name": name} if name else {}), "lr": lr, "batch": batch, "epochs": epochs, **more}


BERT, LARGE, ROBERTA, ROBERTA_LARGE = "bert-base-uncased", "bert-large-uncased", "roberta-base", "roberta-large"
DROPPED, KEPT = ("tanh dropped",), ("tanh kept",)
IN_TRAINING = "pooling in training"
NONE = "none"  # it has none of this, where None says that nothing is known

# 2.1, the trainer that SimCSE's relatives share; 3.1 and 3.2: [CLS]. "amp" is native fp16 there.
TRAINER: Row = {
    "name": BERT, "length": 32, "model.use_max_length": "limit", "temperature": 0.05, "decay": 0.0, "warmup": 0.0,
    "schedule": "linear", "betas": (0.9, 0.999), "eps": 1e-8, "correction": True, "clip": 1.0, "precision": "amp",
    "last": False, "every": 125, "metric": "sts/stsb", "seed": 42, "pooling": "cls", IN_TRAINING: "cls",
    "head": DROPPED, "evaluation.vectors": {}, "evaluation.by_epoch": False, "evaluation.at_start": False,
}  # fmt: skip

UNSUP = {
    "simcse-unsup": row(TRAINER, 3e-5, 64, 1),
    "simcse-unsup-bert-large": row(TRAINER, 1e-5, 64, 1, LARGE),
    "simcse-unsup-roberta-base": row(TRAINER, 1e-5, 512, 1, ROBERTA),
    "simcse-unsup-roberta-large": row(TRAINER, 3e-5, 512, 1, ROBERTA_LARGE),
}  # 3.4
SUP = {
    "simcse-sup": row(TRAINER, 5e-5, 512, 3, head=KEPT),
    "simcse-sup-bert-large": row(TRAINER, 1e-5, 512, 3, LARGE, head=KEPT),
    "simcse-sup-roberta-base": row(TRAINER, 5e-5, 512, 3, ROBERTA, head=KEPT),
    "simcse-sup-roberta-large": row(TRAINER, 1e-5, 512, 3, ROBERTA_LARGE, head=KEPT),
}  # 3.4
MLM = {"auxiliary.0.name": "mlm", "auxiliary.0.weight": 0.1, "auxiliary.0.rate": 0.15}  # 3.3
WITH_MLM = {
    name.replace("sup", "sup-mlm"): {**cells, **MLM} for name, cells in (UNSUP | SUP).items() if cells["name"] != LARGE
}

# 4.4. The projector is the method's own and dropped (4.2). Batch 64 of RoBERTa and transfer: the only script.
DIFFCSE = {**TRAINER, "head": ()}
BY_TRANSFER = {
    "metric": "transfer/avg", "method.mask_rate": 0.15, "method.weight": 0.05,
    "evaluation.suite": "transfer", "evaluation.settings": {"fidelity": "senteval-fast", "folds": 5},  # 2, item 5
}  # fmt: skip
ROBERTA_GENERATOR = {"method.generator": "distilroberta-base"}
DIFFCSES = {
    "diffcse": row(DIFFCSE, 7e-6, 64, 2, **{
        "method.generator": "distilbert-base-uncased", "method.mask_rate": 0.3, "method.weight": 0.005,
    }),
    "diffcse-roberta-base": row(DIFFCSE, 1e-5, 64, 2, ROBERTA, **ROBERTA_GENERATOR, **{
        "method.mask_rate": 0.2, "method.weight": 0.005,
    }),
    "diffcse-transfer": row(DIFFCSE, 2e-6, 64, 2, **BY_TRANSFER, **{"method.generator": "distilbert-base-uncased"}),
    "diffcse-transfer-roberta-base": row(DIFFCSE, 3e-6, 64, 2, ROBERTA, **BY_TRANSFER, **ROBERTA_GENERATOR),
}  # fmt: skip

# 5.6. 32 tokens are the sentence's (5.1), each template has 10. Development scores take the bias off and have no "."
# (5.7, items 1 and 2): the template of training, where test has "{.}"; RoBERTa's has no leading space (item 4).
PROMPT = {
    **TRAINER, "length": 32 + 10, "pooling": "mask", IN_TRAINING: "mask", "model.default_prompt": "sentence",
    "evaluation.vectors": {"default_prompt": "first"},
}  # fmt: skip
PROMPT_UNSUP = {
    **PROMPT, "seed": None,  # ten seeds, not named
    "evaluation.vectors": {"default_prompt": "first", "template_bias": True},
}  # fmt: skip
OF = {
    "model.prompts.first": 'This sentence of "{}" means [MASK].',
    "model.prompts.sentence": 'This sentence of "{.}" means [MASK].',
}
ROBERTA_PROMPTS = {
    "model.prompts.first": "This sentence : '{} ' means<mask>.",
    "model.prompts.sentence": "This sentence : ' {.} ' means<mask>.",
}
PROMPTBERTS = {
    "promptbert-unsup": row(PROMPT_UNSUP, 1e-5, 256, 1, **OF, **{
        "model.prompts.second": 'This sentence : "{}" means [MASK].',
    }),
    "promptbert-unsup-roberta-base": row(PROMPT_UNSUP, 1e-5, 256, 1, ROBERTA, **ROBERTA_PROMPTS, **{
        "model.prompts.second": "The sentence : '{} ' means<mask>.",
    }),
    # 5.4: the pretrained transform, which the method adds and keeps
    "promptbert-sup": row(PROMPT, 5e-5, 4 * 128, 3, head=(), **OF),
    "promptbert-sup-roberta-base": row(PROMPT, 5e-5, 4 * 128, 3, ROBERTA, head=KEPT, **ROBERTA_PROMPTS),
    "promptbert-opti": row(PROMPT, 3e-5, 256, 5, head=None, seed=None, every=1000, **{
        "model.prompts.first": 'This sentence : "{}" means [MASK].',
        "model.prompts.sentence": 'This sentence : "{.}" means [MASK].',
    }),
}  # fmt: skip

# 6.2 to 6.4. Development scores by the last layer, test by the last two. betas: not said. apex O1 is "amp".
CONSERT: Row = {
    "name": BERT, "length": 64, "temperature": 0.1, "decay": 0.01, "warmup": 0.1, "schedule": "linear", "betas": None,
    "eps": 1e-6, "correction": False, "clip": 1.0, "precision": "amp",
    "last": False,  # main.py @03c9e8f: torch's default
    "every": 200, "metric": "sts/stsb", "seed": 1, "pooling": "last-two", IN_TRAINING: "mean", "head": (),
    "evaluation.vectors": {"pooling": "mean"}, "model.dropout": NONE,  # the encoder's own
}  # fmt: skip
SECOND_STAGE = {**CONSERT, "evaluation.patience": 10, "method.first": NONE}
SHUFFLED = {"method.second": {"shuffle": True}}
CUT = {"method.second": {"feature_cutoff": 0.1}}
LABELLED = {**CONSERT, "evaluation.patience": NONE, "method.first": NONE, "method.classes": 3}
JOINT = {**LABELLED, "method.second": {"token_cutoff": 0.1}, "method.weight": 0.15}
SBERT = {**LABELLED, "temperature": NONE, "method.second": NONE, "method.weight": 0.0}  # no contrast
CONSERTS = {
    "consert": row(CONSERT, 5e-7, 96, 10, **{
        "model.dropout": 0.0, "method.first": {"feature_cutoff": 0.2}, "method.second": {"shuffle": True},
        "evaluation.patience": 10,
    }),
    "consert-bert-large": row(SECOND_STAGE, 5e-7, 96, 25, LARGE, length=40, every=100, **SHUFFLED),
    "consert-joint": row(JOINT, 2e-5, 96, 1),
    "consert-sup-unsup": row(SECOND_STAGE, 5e-7, 96, 25, "runs/sbert-nli/model", **CUT),
    "consert-joint-unsup": row(SECOND_STAGE, 5e-7, 96, 25, "runs/consert-joint/model", **SHUFFLED),
    # The table has no column for these: lr, epochs and interval from scripts/sup-*.sh @03c9e8f. 40 tokens: 6.5, item 3
    "sbert-nli": row(SBERT, 2e-5, 96, 1),
    "sbert-nli-bert-large": row(SBERT, 2e-5, 96, 1, LARGE, length=40),
    "consert-joint-bert-large": row(JOINT, 2e-5, 96, 1, LARGE, length=40),
    "consert-sup-unsup-bert-large": row(
        SECOND_STAGE, 5e-7, 96, 10, "runs/sbert-nli-bert-large/model", length=40, **CUT
    ),
    "consert-joint-unsup-bert-large": row(
        SECOND_STAGE, 5e-7, 96, 10, "runs/consert-joint-bert-large/model", length=40, **SHUFFLED
    ),
}  # fmt: skip


def promcse(sup: bool, name: str, lr: float, batch: int, prompt: int) -> Row:
    """7.4; the hinge 7.3, in all supervised recipes; masked words for unsupervised RoBERTa 7.3."""
    more: Row = {"method.prompt_length": prompt, "method.dropout": 0.1, "head": KEPT if sup else DROPPED}
    if sup:
        more |= {"objective.terms.1.name": "energy-hinge", "objective.terms.1.margin": 0.2}
        more |= {"objective.terms.1.weight": 10.0}
    elif name in (ROBERTA, ROBERTA_LARGE):
        more |= MLM | {"auxiliary.0.decay": 0.95, "auxiliary.0.decay_steps": 100}
    return row(TRAINER, lr, batch, 10 if sup else 1, name, **more)


PROMCSES = {
    "promcse-unsup": promcse(False, BERT, 3e-2, 256, 16),
    "promcse-unsup-bert-large": promcse(False, LARGE, 3e-2, 256, 10),
    "promcse-unsup-roberta-base": promcse(False, ROBERTA, 3e-2, 64, 14),
    "promcse-unsup-roberta-large": promcse(False, ROBERTA_LARGE, 1e-2, 64, 10),
    "promcse-sup": promcse(True, BERT, 1e-2, 256, 12),
    "promcse-sup-bert-large": promcse(True, LARGE, 5e-3, 256, 12),
    "promcse-sup-roberta-base": promcse(True, ROBERTA, 1e-2, 512, 10),
    "promcse-sup-roberta-large": promcse(True, ROBERTA_LARGE, 5e-3, 512, 10),
}


def dclr(name: str, guide: str, lr: float, batch: int, epochs: int, phi: float, noise: float, head: Any) -> Row:
    """8.4; 8.3: pooler, then a new layer for base models (item 7), the guide's dropout on (8), both scores, fp32 (9).

    The development vector is the first layer's (7). RoBERTa-base's file has no pooler: its first layer is new, too.
    """
    return row(TRAINER, lr, batch, epochs, name, head=head, precision="fp32", metric="sts/avg", **{
        "seed": None, "evaluation.tasks": ["stsb", "sickr"], "evaluation.vectors": {"heads": 1},
        "objective.phi": phi, "objective.noise": noise, "guide.model.name": guide, "guide.model.pooling": "cls",
        "guide.model.head.0.kind": "pooler", "guide.dropout": True,
    })  # fmt: skip


SIMCSE_OF = "princeton-nlp/unsup-simcse-"
GUIDE_BERT, GUIDE_ROBERTA, POOLER = SIMCSE_OF + BERT, SIMCSE_OF + ROBERTA, ("pooler dropped",)
DCLRS = {
    "dclr": dclr(BERT, GUIDE_BERT, 3e-5, 128, 3, 0.9, 1, POOLER + DROPPED),
    "dclr-roberta-base": dclr(ROBERTA, GUIDE_ROBERTA, 3e-5, 128, 3, 0.85, 2.5, DROPPED + DROPPED),
    "dclr-bert-large": dclr(SIMCSE_OF + LARGE, GUIDE_BERT, 3e-5, 4 * 64, 1, 0.9, 3, POOLER),
    "dclr-roberta-large": dclr(SIMCSE_OF + ROBERTA_LARGE, GUIDE_ROBERTA, 1e-5, 4 * 64, 1, 0.85, 5, POOLER),
}

# 9.2 to 9.4. eps: transformers' AdamW as the official code makes it. Seeds 0 to 4: the first.
MCSE = {
    **TRAINER, "eps": 1e-6, "precision": "fp32", "seed": 0, "method.weight": 0.01, "method.temperature": 0.05,
    "method.size": 2048, "method.shared": 256, "data.batches_from": "one-source",
}  # fmt: skip
MCSES = {
    "mcse-flickr": row(MCSE, 3e-5, 64, 3),
    "mcse-coco": row(MCSE, 3e-5, 64, 3),
    # lr, batch and epochs stand in the paper's appendix, which was not read
    "mcse-flickr-roberta-base": row(MCSE, None, None, None, ROBERTA),
    "mcse-coco-roberta-base": row(MCSE, None, None, None, ROBERTA),
}

# 10.2 and 10.4; scripts: 20 epochs (10.6). betas and the last batch: not said. Patience counts epochs there.
SCT: Row = {
    "length": 128, "decay": 0.01, "warmup": 0.1, "schedule": "linear", "betas": None, "eps": 1e-6, "correction": False,
    "clip": 1.0, "precision": "amp", "last": None, "every": 64, "evaluation.by_epoch": True, "metric": "sts/stsb",
    "seed": 1000, "pooling": "mean", IN_TRAINING: "mean", "evaluation.vectors": {},
}  # fmt: skip


def sct(name: str, lr: float, queue: int, reference: float, online: float, distilled: bool = False) -> Row:
    """The teacher is pooled by the mean: sentence-transformers loads it so."""
    teacher = {"guide.model.name": SIMCSE_OF + LARGE, "guide.model.pooling": "mean"}
    itself: Row = {"guide.ema": 0.0, "method.projector": 3, "method.expansion": 10}
    return row(SCT, lr, 128, 20, name, **{
        "temperature": (reference, online), "objective.size": queue,
        "head": ("tanh 1024 kept",) if distilled else (),
        **({**teacher, "method.projector": 0} if distilled else itself),
    })  # fmt: skip


TURC = "google/bert_uncased_"
SCTS = {
    "sct-bert-tiny": sct(TURC + "L-2_H-128_A-2", 5e-4, 131072, 0.03, 0.04),
    "sct-bert-mini": sct(TURC + "L-4_H-256_A-4", 3e-4, 131072, 0.01, 0.03),
    "sct-bert-small": sct(TURC + "L-4_H-512_A-8", 3e-4, 65536, 0.02, 0.03),
    "sct": sct(BERT, 5e-4, 65536, 0.04, 0.05),
    "sct-bert-large": sct(LARGE, 5e-4, 16384, 0.04, 0.05),
    "sct-distil-tiny": sct("runs/sct-bert-tiny/model", 5e-4, 131072, 0.03, 0.04, True),
    "sct-distil-mini": sct("runs/sct-bert-mini/model", 1e-4, 65536, 0.04, 0.05, True),
    "sct-distil-small": sct("runs/sct-bert-small/model", 1e-4, 131072, 0.04, 0.05, True),
    "sct-distil-base": sct("runs/sct/model", 1e-4, 65536, 0.04, 0.05, True),
}

# 11.4; weight decay 11.5, item 3. eps: transformers' AdamW by default. Eight seeds, not named. Last batch: not said.
SG_OPT: Row = {
    "length": 128, "temperature": 0.01, "decay": 0.01, "warmup": 0.1, "schedule": "linear", "betas": (0.9, 0.9),
    "eps": 1e-6, "correction": True, "clip": 1.0, "precision": "fp32", "last": None, "every": 50,
    "metric": "sts/stsb", "seed": None, "pooling": "cls", IN_TRAINING: "cls", "head": (), "evaluation.vectors": {},
    "method.regulariser": 0.1, "method.hidden": 4096,
}  # fmt: skip
SG_OPTS = {
    "sg-opt": row(SG_OPT, 5e-5, 16, 1, BERT),
    "sg-opt-bert-large": row(SG_OPT, 5e-5, 16, 1, LARGE),
    "sg-opt-roberta-base": row(SG_OPT, 5e-5, 16, 1, ROBERTA),
    "sg-opt-roberta-large": row(SG_OPT, 5e-5, 16, 1, ROBERTA_LARGE),
}

OTHERS = {
    # 12.3 and 12.4: rate, batch and interval of the few-shot runs, the weight the parser's; the full run is not said.
    # The official commands have no fp16.
    "micse": row(TRAINER, 1e-5, 64, None, every=500, seed=None, precision="fp32", **{
        "method.weight": 0.011, "method.layers": [7, 8, 9, 10], "method.samples": 150,
    }),
    # 13.2: as SimCSE, assumed there; the temperature is its advice, alpha and A0 are not known.
    "macl": row(TRAINER, 3e-5, 64, 1, seed=None),
    "macl-roberta-base": row(TRAINER, 1e-5, 512, 1, ROBERTA, seed=None),
}  # fmt: skip

# sentence-methods-2.md: 1 DeCLUTR (4 documents on each of 4 GPUs, from memory), 4 Quick-Thoughts, 17 CDA (nothing but
# the views is known), 18 DiscoEval, 19 Time Control (its optimiser is plain descent), CONPONO; CPC: mechanisms.md.
UNKNOWN: Row = dict.fromkeys([*KEYS, *MADE])
DECLUTR: Row = {
    **UNKNOWN, "length": 512, "temperature": 0.05, "decay": 0.1, "eps": 1e-6, "correction": False, "clip": 1.0,
    "precision": "amp", "pooling": "mean", IN_TRAINING: "mean", "head": (), "objective.name": "ntxent",
    "method.anchors": 2, "method.positives": 2, "method.least": 32, "method.most": 512, "method.rate": 0.15,
    "method.weight": 1.0,
}  # fmt: skip
DOCUMENTS = {
    "declutr": row(DECLUTR, 5e-5, 16, 1, ROBERTA),
    "declutr-small": row(DECLUTR, 5e-5, 16, 1, "distilroberta-base"),
    "quick-thoughts": row(UNKNOWN, 5e-4, 400, 1, clip=5.0, length=30, schedule="constant", **{
        "data.sampler": "contiguous", "objective.name": "context", "objective.context": 1, "method.fidelity": "code",
    }),
    "time-control": row(UNKNOWN, 1e-4, 32, 100, "gpt2", pooling="mean", **{
        "head": ("linear 128 kept", "relu 128 kept", "relu 128 kept", "linear 8 kept"), "method.pin": 1.0,
        "train.groups.0.pattern": "model.encoder*", "train.groups.0.frozen": True,
    }),
    "conpono": row(UNKNOWN, 5e-5, 32, None, BERT, warmup=0.1, pooling="cls", head=("pooler kept",), **{
        "method.reach": 4, "method.choices": 32, "auxiliary.0.name": "mlm", "auxiliary.0.rate": 0.1,
    }),
    "discourse": row(UNKNOWN, 1e-3, 20, 1, length=200, **{
        "method.neighbours": 1.0, "method.place": 1.0, "method.level": 1.0, "method.title": 1.0, "method.hidden": 300,
    }),
    "cda": row(UNKNOWN, None, None, None, **{"method.name": "views"}),
    "cpc": row(UNKNOWN, None, None, None, **{"data.sampler": "contiguous", "objective.name": "cpc"}),
}  # fmt: skip

# The second list (sentence-methods-2.md), section 8.4: the README's table (8.6e), totals of processes.
CLUSTER: Row = {**TRAINER, "evaluation.patience": 3, "objective.name": "clusterns"}


def clusterns(base: Row, name: str, lr: float, batch: int, cells: tuple[Any, ...], hard: bool | None = True) -> Row:
    """Clusters, start, rate, weight, alpha and beta of a column of the table; None where it has none."""
    keys = ("clusters", "start_cosine", "rate", "margin_weight", "alpha", "beta")
    more = {f"objective.{key}": value for key, value in zip(keys, cells, strict=True)}
    return row(base, lr, batch, 1, name, **more, **({"objective.hard": False} if not hard else {}))


TEMPLATES = {**CLUSTER, **{key: PROMPT_UNSUP[key] for key in PROMPT_UNSUP if PROMPT_UNSUP[key] != TRAINER.get(key)}}
TEMPLATES["seed"] = None
CLUSTERS = {
    "clusterns": clusterns(CLUSTER, BERT, 5e-5, 256, (128, 0.4, 1e-3, 1e-3, 0.0, 0.3)),
    "clusterns-bert-large": clusterns(CLUSTER, LARGE, 5e-5, 4 * 128, (128, 0.5, 1e-3, 5e-5, 0.25, 0.3)),
    "clusterns-roberta-base": clusterns(CLUSTER, ROBERTA, 5e-5, 2 * 256, (128, 0.4, 1e-3, 1e-4, 0.2, 0.5)),
    "clusterns-roberta-large": clusterns(CLUSTER, ROBERTA_LARGE, 5e-5, 4 * 128, (128, 0.4, 5e-4, 0.0, None, None)),
    "clusterns-prompt": clusterns(TEMPLATES, BERT, 5e-5, 512, (96, 0.4, 5e-4, 1e-2, 0.0, 0.2)),
    "clusterns-prompt-bert-large": clusterns(TEMPLATES, LARGE, 3e-5, 4 * 64, (96, 0.2, 1e-4, 5e-4, 0.25, 0.3)),
    "clusterns-prompt-roberta-base": clusterns(
        TEMPLATES, ROBERTA, 5e-5, 2 * 256, (128, 0.4, 1e-3, 1e-2, 0.2, 0.6), hard=False
    ),
}

# Section 12.2 to 12.4: the library's AdamW; every 5 % of the run; no seed said.
UNSEE: Row = {
    "name": BERT, "length": 64, "temperature": NONE, "decay": 0.01, "warmup": 0.1, "schedule": "linear",
    "betas": (0.9, 0.999), "eps": 1e-8, "correction": True, "clip": 1.0, "precision": "amp", "last": None,
    "every": None, "metric": "sts/stsb", "seed": None, "pooling": "mean", IN_TRAINING: "mean", "head": (),
    "evaluation.vectors": {}, "guide.ema": 0.999, "method.expansion": 10, "method.blocks": 4, "objective.keys": "guide",
}  # fmt: skip
UNSEES = {
    "unsee": row(UNSEE, 1e-4, 32, 1, **{
        "objective.invariance": 25.0, "objective.variance": 25.0, "objective.covariance": 1.0,
    }),
    "unsee-barlow": row(UNSEE, 1e-4, 32, 1, **{"objective.off_diagonal": 0.0051, "objective.affine": True}),
    "unsee-corinfomax": row(UNSEE, 1e-4, 32, 1, **{
        "objective.invariance": 2000.0, "objective.covariance": 0.2, "objective.keep": 0.01, "objective.eps": 1e-6,
    }),
    "unsee-byol": row(UNSEE, 1e-4, 32, 1, **{"method.blocks": 3, "objective.keys": NONE, "objective.hidden": 0}),
}  # fmt: skip
SECOND_LIST = {
    # 9.3 and 9.4: the head is the method's own and dropped
    "whitenedcse": row({**TRAINER, "head": ()}, 1e-5, 128, 1, **{"method.groups": 128, "method.positives": 2}),
    # 5.2 to 5.4: single GPU; the head as above
    "compcse": row({**TRAINER, "head": ()}, 3e-5, 64, 1, **{
        "method.prefix": 256, "method.composition": "mean",
    }),
    # the composition alone is RoBERTa's own
    "compcse-roberta-base": row({**TRAINER, "head": ()}, None, None, None, ROBERTA, **{
        "method.prefix": 256, "method.composition": "halves",
    }),
    # 2: [M], as all of it; MLM and NT-Xent weigh the same
    "clear": row(UNKNOWN, 6e-4, 8192, None, warmup=24000, pooling="cls", head=DROPPED, **{
        "train.max_steps": 500_000, "auxiliary.0.name": "mlm", "auxiliary.0.weight": 1.0,
    }),
    # 26.3 and 26.4, for images
    "csd": row(UNKNOWN, 1e-5, 128, None, temperature=0.07, decay=5e-4, **{
        "objective.terms.0.keys": "both", "objective.terms.1.name": "batch-hard-triplet",
        "objective.terms.1.score": "cosine", "objective.terms.1.margin": 1.0,
    }),
    # 24.1 and 24.4
    "parallel-lines": row(UNKNOWN, 0.04, None, None, schedule="linear", **{
        "objective.margin": 0.15, "method.window": 5, "method.negatives": 2, "method.t": 1e-3, "method.least": 50,
        "model.dim": 100,
    }),
}  # fmt: skip

DECODERS = {
    # sentence-methods-2, 11: the released command; the paper's rate, temperature and weights differ. Seven tokens are
    # the template's.
    "denosent": row({**UNKNOWN, "name": BERT, "pooling": "mask", "temperature": 0.05}, 4e-5, 64, None, **{
        "length": 32 + 7, "schedule": "constant", "warmup": 500, "train.max_steps": 5000, "every": 50,
        "metric": "sts/avg", "evaluation.tasks": ["stsb", "sickr"], "head": ("linear dropped",),
        "model.prompts.sentence": '"{}" means [MASK].', "method.layers": 16, "method.heads": 1, "method.inner": 2048,
        "method.noise": 0.825, "method.dropout": 0.1, "method.fidelity": "code", "objective.terms.0.weight": 5.0,
    }),
    # No section of the reference: what sentence-transformers 6.2 says of its losses and of the papers' batches.
    "tsdae": {**UNKNOWN, "pooling": "cls", "method.rate": 0.6, "method.tied": True, "temperature": None},
    "contrastive-tension": {**UNKNOWN, "pooling": "mean", "objective.negatives": 7},
    "contrastive-tension-in-batch": {**UNKNOWN, "pooling": "mean", "temperature": 1 / 20, "objective.name": "clip"},
}  # fmt: skip

# Second list (`../shared/reference/sentence-methods-2.md`): 3.4, the CoLA notebook, its real views by 3.6; 21.4, two
# schedules there. What is not said there is None.
SILENT: Row = dict.fromkeys((*KEYS, *MADE))
HEADED = {
    "supcl-seq": row(SILENT, 5e-5, 32, 3, BERT, warmup=50, decay=0.01, temperature=0.05, pooling="pooler", **{
        "model.dropout": 0.1, "method.positive": [{"name": "dropout", "rate": 0.0}],
        "method.more": [[{"name": "dropout", "rate": 0.0}], [{"name": "dropout", "rate": 0.2}]],
        "objective.base_temperature": NONE,  # the preset's 0.07
    }),
    "supcl-seq-classifier": row(SILENT, 1e-3, 28, 5, "runs/supcl-seq/model", **{
        "train.groups.0.pattern": "model.*", "train.groups.0.frozen": True,
    }),
    "lm-supcon": row(SILENT, 1e-5, 40, None, ROBERTA, length=128, seed=13, pooling="mask", **{
        "train.max_steps": 1000, "method.temperature": 0.07, "method.demonstrations": True, "method.fidelity": "code",
    }),
}  # fmt: skip

PUBLISHED: dict[str, Row] = {
    **UNSUP, **SUP, **WITH_MLM, **DIFFCSES, **PROMPTBERTS, **CONSERTS, **PROMCSES, **DCLRS, **MCSES, **SCTS,
    **SG_OPTS, **OTHERS, **DOCUMENTS, **CLUSTERS, **UNSEES, **SECOND_LIST, **DECODERS,
    **HEADED,
}  # fmt: skip


def views_of(method: Method) -> Any:
    """The views of one row that has every role."""
    given = {"anchor": "a", "positive": "b", "negatives": ["c"], "label": 1, "features": np.zeros(2048, np.float32),
             "sentences": ["a", "b", "c"], "document_id": 1, "position": 0}  # fmt: skip
    make = method.outline if "frequencies" in vars(method) else method.views  # words are counted in a large file
    return make([given], lambda stream: np.random.default_rng(stream))


def with_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a method as it gets them; views of ConSERT without what is switched off."""
    defaults = {key: found.default for key, found in inspect.signature(methods[given["name"]]).parameters.items()}
    merged = {**defaults, **given}
    for view in {"first", "second"} & set(merged) if given["name"].startswith("consert") else ():
        merged[view] = {key: value for key, value in (merged[view] or {}).items() if value is not False} or None
    return merged


def temperature_of(objective: dict[str, Any]) -> Any:
    """The temperature of an objective or of its first term; SCT's pair; None without an objective."""
    if objective.get("name") == "sct":
        return objective["reference_temperature"], objective["online_temperature"]
    first = objective["terms"][0] if "terms" in objective else objective
    return first.get("temperature")


def effective(recipe: Recipe) -> dict[str, Any]:
    """What a run of the recipe has: its keys, the defaults of method and objective, and the cells of `MADE`."""
    method = setup.build_method(recipe)
    found = recipe.model_dump()
    found["method"] = with_defaults(found["method"])
    found["auxiliary"] = [with_defaults(given) for given in found["auxiliary"]]
    found["objective"] = setup.objective_config(recipe, method)
    found["temperature"] = temperature_of(found["objective"])
    found["precision"] = "fp32" if recipe.train.precision == "fp32" else "amp"
    first = next(iter(views_of(method).values()))
    found[IN_TRAINING] = first.settings.get("pooling", recipe.model.pooling)
    found["head"] = tuple(
        " ".join([head.kind, *([str(head.dim)] if head.dim else []), "dropped" if head.train_only else "kept"])
        for head in recipe.model.head
    )
    if found["evaluation"] is not None:
        vectors = found["evaluation"]["vectors"] or {}
        found["evaluation"]["vectors"] = {key: value for key, value in vectors.items() if value is not None}
    return found


def at(found: Any, dotted: str) -> Any:
    """The value at a dotted key, None where there is none."""
    for part in [dotted] if dotted in found else dotted.split("."):
        if isinstance(found, list):
            found = found[int(part)] if int(part) < len(found) else None
        else:
            found = None if found is None else found.get(part)
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_recipe_has_the_published_settings(name: str) -> None:
    found, wrong = effective(load_recipe(name)), []
    for cell, published in PUBLISHED[name].items():
        key = KEYS.get(cell, cell)
        has = at(found, key)
        if published is not None and has != (None if published is NONE else published):
            wrong.append(f"{name}: {key} is {has!r}, published {published!r}")
    assert not wrong, "\n".join(wrong)


def test_every_recipe_of_a_published_method_stands_in_the_table() -> None:
    shipped = {path.stem for path in (ROOT / "recipes").glob("*.yaml") if path.stem.startswith(FAMILIES)}
    assert shipped == set(PUBLISHED)


def test_silence_is_said() -> None:
    for name, cells in PUBLISHED.items():
        asked = {*KEYS, *MADE}
        assert asked <= set(cells), f"{name}: {sorted(asked - set(cells))}"
