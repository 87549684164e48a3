"""The losses of twenty steps of every method, kept in ``stored_losses.json``: a change of them is always on purpose.

Random tiny models with dropout, built-in data and tokenizer, so that nothing but this repository decides the figures.
For new cases: ``python -m tests.training.test_stored_losses``; after a change that is meant to change some, with their
names.
"""

from __future__ import annotations

import atexit
import json
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from embedkit.config.recipe_io import load_recipe
from embedkit.methods import methods
from tests.helpers.image_data import samples
from tests.methods.cases import CASES as SENTENCE_CASES
from tests.training import common, runs

STORED = Path(__file__).with_name("stored_losses.json")
STEPS = 20

TEXT = common.model_config(0.1).model_dump(exclude_none=True)
CLS = {**TEXT, "pooling": "cls"}
TRAIN_ONLY = {"kind": "tanh", "train_only": True}
STATIC = {"kind": "static", "tokenizer": "builtin", "dim": 16, "max_length": 32}


def data(name: str) -> dict[str, Any]:
    return {"train": [{"path": f"builtin:{name}", "limit": 200}]}


def of_recipe(name: str) -> dict[str, Any]:
    """The smoke run of a method's own recipe as a case, for methods that need no other."""
    recipe = load_recipe(name, smoke=True).model_dump(mode="json", exclude_defaults=True)
    kept = ("model", "data", "method", "objective", "guide", "auxiliary")
    return {key: recipe[key] for key in kept if key in recipe}


# The name up to a "+" is the method's.
CASES: dict[str, dict[str, Any]] = {
    "simcse-unsup": {"model": {**CLS, "head": {"kind": "tanh", "train_only": True}}, "data": data("sentences")},
    "simcse-sup": {"model": {**CLS, "head": {"kind": "tanh"}}, "data": data("triplets-train")},
    "pairs": {"model": TEXT, "data": data("triplets-train")},
    "pairs+cosent": {"model": TEXT, "data": data("graded-train"), "objective": "cosent", "train": {"lr": 3e-3}},
    "simcse-unsup+augment": {
        "model": CLS,
        "data": data("sentences"),
        "method": {"name": "simcse-unsup", "augment": {"positive": ["word-repetition", "token-shuffle"]}},
    },
    "views": {
        "model": CLS,
        "data": data("sentences"),
        "objective": "ntxent",
        "method": {
            "name": "views",
            "anchor": {"name": "feature-cutoff", "rate": 0.2},
            "more": [["phrases"]],
            "positive": [{"name": "word-deletion", "rate": 0.2}, {"name": "dropout", "rate": 0.2}],
        },
    },
    "sent2vec": {
        "model": {**STATIC, "ngrams": 2, "buckets": 500},
        "data": data("sentences"),
        "train": {"lr": 0.05},
        "method": {"name": "sent2vec", "frequencies": "builtin:sentences", "t": 1e-2},
    },
    "dclr": {
        "model": {**CLS, "head": TRAIN_ONLY},
        "data": data("sentences"),
        "guide": {"model": TEXT},
        "objective": {"name": "dclr", "phi": 0.99, "temperature": 0.5},
    },
    "dclr+paper": {
        "model": {**CLS, "head": TRAIN_ONLY},
        "data": data("sentences"),
        "guide": {"model": TEXT},
        "method": {"name": "dclr", "fidelity": "paper"},
        "objective": {"name": "dclr", "phi": 0.99, "noise": 2.0, "temperature": 0.5},
    },
    "sct": {
        "model": TEXT,
        "data": data("pairs-train"),
        "guide": {"ema": 0.0},
        "objective": {"name": "sct", "size": 64},
        "method": {"name": "sct", "projector": 2, "expansion": 2},
    },
    "sct+distillation": {
        "model": {**TEXT, "head": {"kind": "tanh", "dim": 32}},
        "data": data("pairs-train"),
        "guide": {"model": TEXT},
        "objective": {"name": "sct", "size": 64},
        "method": {"name": "sct", "projector": 0},
    },
    "sg-opt": {"model": CLS, "data": data("sentences"), "method": {"name": "sg-opt", "hidden": 48}},
    "micse": {
        "model": {**CLS, "head": TRAIN_ONLY},
        "data": data("sentences"),
        "method": {"name": "micse", "layers": [0, 1], "samples": 40, "weight": 0.05},
    },
    "macl": {"model": {**CLS, "head": TRAIN_ONLY}, "data": data("sentences")},
    "mcse": {
        "model": {**CLS, "head": TRAIN_ONLY},
        "method": {"name": "mcse", "size": 82, "shared": 16, "weight": 0.3},
        "data": {"train": [*data("sentences")["train"], *data("grounded")["train"]]},
    },
    "nli-static": {"model": STATIC, "data": data("pairs-train"), "train": {"lr": 0.05}},
    "clip-views": {**of_recipe("byolip"), "train": {"lr": 1e-3}},
    **SENTENCE_CASES,
}
WITH_A_CASE = {case.partition("+")[0] for case in CASES}
for name, method in methods.items():  # recipes/NAME.yaml is the case of a method that has none here
    if name not in WITH_A_CASE and "image" not in method.contract.roles:
        CASES[name] = of_recipe(name)
for case, name in (
    ("image-views", "swav"), ("image-views+teacher", "byol"), ("image-views+dino", "dino"), ("image-views+msn", "msn"),
    ("image-views+mugs", "mugs"),
    ("clip-views+crops", "silc"), ("clip+concepts", "diht"), ("clip+matching", "soft-mask"),
    ("clip+captioning", "coca"), ("coop", "coop"), ("gopro", "gopro"), ("clip-views+prompts", "multi-prompt"),
    ("image-difference", "image-difference"),
):  # fmt: skip
    CASES[case] = of_recipe(name) | {"train": {"lr": 2e-3}}
CASES["image-views+dino"] |= {  # a centre that follows at once: the shipped one makes the loss rise to log K first
    "objective": {"name": "dino", "centre_momentum": 0.0}, "guide": {"ema": 0.9}, "train": {"lr": 3e-3}
}  # fmt: skip
CASES["clip-views+crops"]["objective"]["terms"][1] |= {"centre_momentum": 0.0}  # the same
CASES["image-views+mugs"] |= {"guide": {"ema": 0.9}, "train": {"lr": 3e-3}}  # the same, and queues that one batch fills
for term, settings in enumerate(({"size": 16}, {"size": 16}, {"centre_momentum": 0.0})):
    CASES["image-views+mugs"]["objective"]["terms"][term] |= settings
CASES["topic-moco"]["train"] = {"lr": 2e-2, "batch_size": 64}  # texts of other lengths hide what 16 of them learn


CASES["adacontrast"] = of_recipe("adacontrast") | {
    "method": {"name": "adacontrast", "transform": "small", "hidden": 32, "size": 16, "neighbours": 4, "vectors": 64},
    "objective": {"name": "moco", "size": 16, "direction": {"name": "rows", "keys": "guide"}}, "guide": {"ema": 0.9},
    "train": {"lr": 3e-3},
}  # fmt: skip


@lru_cache(maxsize=1)
def model_with_classifier() -> str:
    """The folder of a tiny random dual encoder that keeps a classifier."""
    from embedkit.factory import build
    from embedkit.models.heads.classifier import TargetHead

    model: Any = build(load_recipe("adacontrast", smoke=True).model, 0).eval()
    torch.manual_seed(0)
    head = TargetHead(model.training_dim, 3, "class", ["hat", "shoe", "tie"])
    with torch.no_grad():  # images are of all its classes
        middle = model(model.prepare([image for image, _ in samples(12)])).mean(dim=0)
        head.layers[0].weight.mul_(10.0)
        head.layers[0].bias.copy_(-head.layers[0].weight @ middle)
    model.classifiers = {"label": head}
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return str(model.save(Path(folder.name) / "classifier"))


def recipe(case: str) -> dict[str, Any]:
    """Twenty steps of a case."""
    changes = CASES[case]
    if case == "adacontrast":
        changes = changes | {"model": {"kind": "dual", "name": model_with_classifier()}}
    train = {"max_steps": STEPS, "batch_size": 16, "lr": 5e-4, "warmup": 0.1, "weight_decay": 0.01, "log_every": 1}
    return {
        "name": "stored", "seed": 42, "method": case.partition("+")[0],
        **{name: value for name, value in changes.items() if name != "train"},
        "train": {**train, **changes.get("train", {})},
    }  # fmt: skip


SPREAD = dict.fromkeys(
    ("unsee", "unsee+corinfomax", "whitenedcse+sentence", "image-views", "image-views+teacher"), 1e-3
)  # fmt: skip
"""Relative difference of losses between CPUs with AVX2 and with AVX-512, where covariances of few rows are
inverted in float32: 6e-4 at most was seen."""


def test_every_method_has_stored_losses() -> None:
    known = json.loads(STORED.read_text())
    assert known.keys() == CASES.keys(), "run: python tools/regenerate.py tests/training/stored_losses.json"
    assert all(len(losses) == STEPS for losses in known.values())


@pytest.mark.parametrize("case", CASES)
def test_losses_are_the_stored_ones(tmp_path: Path, case: str) -> None:
    wanted = json.loads(STORED.read_text())[case]
    near = SPREAD.get(case, 1e-5)
    assert runs.run(tmp_path, recipe(case)).losses == pytest.approx(wanted, rel=near, abs=near)
    assert sum(wanted[-5:]) < sum(wanted[:5])


def test_another_seed_or_rate_has_other_losses(tmp_path: Path) -> None:
    given, short = recipe("simcse-unsup"), ["train.max_steps=6", "train.schedule=constant"]
    wanted = runs.run(tmp_path / "plain", given, *short).losses
    for change in ("seed=43", "train.lr=5.1e-4", "model.dropout=0.11"):
        found = runs.run(tmp_path / change, given, *short, change).losses
        assert found != pytest.approx(wanted, rel=1e-5, abs=1e-5), change


if __name__ == "__main__":
    import sys

    torch.set_num_threads(1)
    stored = json.loads(STORED.read_text())
    again = sys.argv[1:] or [case for case in CASES if case not in stored]
    with tempfile.TemporaryDirectory() as folder:
        new = {case: runs.run(Path(folder) / case, recipe(case)).losses for case in again}
    stored |= {case: [round(x, 7) for x in values] for case, values in new.items()}
    rows = [f" {json.dumps(case)}: {json.dumps(stored[case])}" for case in CASES if case in stored]
    STORED.write_text("{\n" + ",\n".join(rows) + "\n}\n")
