"""Tiny recipes of the sentence methods for the matrix of tests and the stored losses: name of the method, then "+"."""

from __future__ import annotations

from typing import Any

from tests.training import common

TEXT = common.model_config(0.1).model_dump(exclude_none=True)
CLS = {**TEXT, "pooling": "cls"}
TRAIN_ONLY = {"kind": "tanh", "train_only": True}
TEMPLATES = {"first": 'the red "{}" a [MASK].', "second": 'the red: "{}" and [MASK].'}
PROMPTED = {**TEXT, "pooling": "mask", "prompts": TEMPLATES, "default_prompt": "first"}

_ADVERSARY = {
    "name": "adversarial", "epsilon": 1.0, "steps": 2, "step_size": 0.1, "start": 1e-5, "per": "token",
}  # fmt: skip


def data(name: str) -> dict[str, Any]:
    return {"train": [{"path": f"builtin:{name}", "limit": 200}]}


def _texts(method: Any, model: dict[str, Any], source: str = "sentences", **more: Any) -> dict[str, Any]:
    return {"model": model, "data": data(source), "method": method, **more}


_SERIES: dict[str, Any] = {
    "model": {"kind": "sequence", "sequence": {"dim": 8, "hidden": 8, "depth": 1}},
    "data": {"train": [{"path": "builtin:series-train", "limit": 200, "columns": {"anchor": "anchor"}}]},
    "train": {"lr": 3e-3},
}

CASES: dict[str, dict[str, Any]] = {
    "simcse-unsup+mlm": _texts(
        "simcse-unsup", {**CLS, "head": TRAIN_ONLY}, auxiliary=[{"name": "mlm", "weight": 0.1, "decay": 0.5}]
    ),
    "mlm": _texts("mlm", TEXT),
    "pairs+vectors": _texts(
        "pairs", {"kind": "feature", "feature": {"form": "mlp", "dim": 8, "dropout": 0.1, "scaling": "standard"}},
        "vectors-train", train={"lr": 3e-3},
    ),
    "views+vectors": {
        "model": {"kind": "feature", "feature": {"form": "residual", "dim": 8, "scaling": "center", "start": "pca"}},
        "data": {"train": [
            {"path": "builtin:vectors-train", "limit": 200, "columns": {"anchor": "anchor", "label": "label"}}]},
        "objective": {"name": "supcon", "temperature": 0.5}, "train": {"lr": 3e-3},
        "method": {"name": "views", "anchor": [{"name": "noise", "deviation": 0.3}],
                   "positive": [{"name": "element-cutoff", "rate": 0.2}]},
    },
    "views+sequences": {
        "model": {"kind": "sequence", "sequence": {"dim": 8, "hidden": 8, "depth": 2, "patch": 2}},
        "data": {"train": [
            {"path": "builtin:series-train", "limit": 200, "columns": {"anchor": "anchor", "label": "label"}}]},
        "objective": {"name": "supcon", "temperature": 0.5}, "train": {"lr": 3e-3},
        "method": {"name": "views", "anchor": [{"name": "noise", "deviation": 0.3}],
                   "positive": [{"name": "column-cutoff", "rate": 0.4}]},
    },
    "views+attention": {
        "model": {"kind": "sequence", "sequence": {
            "dim": 8, "hidden": 8, "depth": 2, "form": "transformer", "heads": 2, "dropout": 0.1}},
        "data": {"train": [{"path": "builtin:series-train", "limit": 200, "columns": {"anchor": "anchor"}}]},
        "objective": {"name": "ntxent", "temperature": 0.5}, "train": {"lr": 3e-3},
        "method": {"name": "views", "positive": [{"name": "element-cutoff", "rate": 0.2}]},
    },
    "modalities": {
        "model": {"kind": "multi", "dim": 8, "modalities": {
            "caption": {"kind": "static", "tokenizer": "builtin", "dim": 16},
            "image": {"kind": "feature", "feature": {"form": "mlp", "scaling": "standard", "dropout": 0.1}},
            "sound": {"kind": "feature", "feature": {"form": "residual", "scaling": "center", "start": "pca"}}}},
        "data": data("modalities-train"), "train": {"lr": 1e-2},
        "method": {"name": "modalities", "augment": {"image": [{"name": "noise", "deviation": 0.2}]}},
    },
    "modalities+views": {
        "model": {"kind": "multi", "dim": 8, "modalities": {
            "caption": {**TEXT, "max_length": 32},
            "image": {"kind": "feature", "feature": {"form": "mlp", "scaling": "standard", "dim": 12}},
            "sound": {"kind": "feature"}}},
        "data": data("modalities-train"), "train": {"lr": 5e-3},
        "method": {"name": "modalities", "form": "views"},
    },
    "segments+cycle": {
        **_SERIES,
        "method": {"name": "segments", "loss": "temporal-cycle", "length": 6, "stride": 4, "most": 5,
                   "augment": {"positive": [{"name": "noise", "deviation": 0.5}, "step-dropout"]}},
    },
    "views+segments": {
        **_SERIES, "objective": {"name": "ntxent", "temperature": 0.5},
        "method": {"name": "views", "positive": ["time-crop", "resample", "mixup"]},
        "auxiliary": [{"name": "segments", "weight": 0.5, "loss": {"name": "order", "count": 2}, "length": 6}],
    },
    "heads": _texts(
        {"name": "heads", "heads": [
            {"views": ["anchor", "positive"], "pair": ["u", "v", "|u-v|"], "hidden": 8, "activation": "relu"}]},
        TEXT, "inference-train", train={"lr": 3e-3},
    ),
    "simcse-unsup+heads": _texts(
        "simcse-unsup", CLS, "inference-train", train={"lr": 2e-3},
        auxiliary=[{"name": "heads", "weight": 1.0, "decay": 0.5, "heads": [
            {"views": ["anchor", "positive"], "weight": 0.5, "keep": True}]}],
    ),
    "dec+beside": _texts(
        "simcse-unsup", CLS, train={"lr": 2e-3},
        auxiliary=[{"name": "dec", "weight": 0.5, "clusters": 4, "view": "positive", "rows": 64}],
    ),
    "lm-supcon": _texts(
        {"name": "lm-supcon", "words": {"0": "dog", "1": "lamp", "2": "house"}, "demonstrations": True,
         "example_words": 3,
         "template": "{} and the [MASK].", "templates": ["{} and the [MASK].", "the [MASK] or {}"], "rows": 100},
        {**TEXT, "pooling": "mask", "max_length": 64}, "inference-train", train={"lr": 2e-3},
    ),
    "lm-supcon+paper": _texts(
        {"name": "lm-supcon", "words": {"0": "dog", "1": "lamp", "2": "house"}, "fidelity": "paper",
         "template": "{} and the [MASK].", "templates": ["{} and the [MASK].", "the [MASK] or {}"]},
        {**TEXT, "pooling": "mask"}, "inference-train", train={"lr": 2e-3},
    ),
    "pairs+adversary": _texts(
        "pairs", TEXT, "inference-train", train={"lr": 2e-3},
        auxiliary=[{"name": "heads", "weight": 0.1, "heads": [
            {"kind": "number", "views": "positive", "reverse": 0.3, "ramp": True, "hidden": 8}]}],
    ),
    "diffcse": _texts({"name": "diffcse", "generator": None}, CLS),
    "diffcse+paper": _texts({"name": "diffcse", "generator": None, "fidelity": "paper"}, CLS),
    "promptbert-unsup": _texts("promptbert-unsup", {**PROMPTED, "head": TRAIN_ONLY}, train={"lr": 2e-3}),
    "promptbert-sup": _texts("promptbert-sup", PROMPTED, "triplets-train"),
    "promptbert-sup+head": _texts(
        "promptbert-sup", {**PROMPTED, "head": {"kind": "tanh"}}, "triplets-train", train={"lr": 3e-3}
    ),
    "promptbert-opti": _texts("promptbert-opti", PROMPTED, train={"lr": 1e-2}),
    "cpc": {
        "model": {**TEXT, "normalize": False}, "method": "cpc", "train": {"lr": 5e-3, "batch_size": 64},
        "data": {**data("documents"), "sampler": "contiguous"},
    },
    "conpono": _texts({"name": "conpono", "reach": 2, "choices": 8}, TEXT, "documents", train={"lr": 5e-3}),
    "conpono+mlm": _texts({"name": "conpono", "reach": 2, "choices": 8}, TEXT, "documents", train={"lr": 3e-3},
                          auxiliary=[{"name": "mlm", "weight": 1.0}]),
    "quick-thoughts": {
        "model": {**TEXT, "normalize": False}, "method": "quick-thoughts", "train": {"lr": 2e-3, "batch_size": 64},
        "data": {**data("documents"), "sampler": "contiguous"},
    },
    "consert": _texts({"name": "consert", "first": {"feature_cutoff": 0.2}, "second": {"shuffle": True}},
                      {**TEXT, "pooling": "last-two"}),
    "consert+cutoffs": _texts(
        {"name": "consert", "first": {"token_cutoff": 0.15}, "second": {"element_cutoff": 0.2}, "fidelity": "paper"},
        {**TEXT, "pooling": "last-two"},
    ),
    "consert-sup": _texts(
        {"name": "consert-sup", "second": {"token_cutoff": 0.1}}, TEXT, "inference-train", train={"lr": 2e-3}
    ),
    "consert-sup+adversarial": _texts(
        {"name": "consert-sup", "second": {"adversarial": 0.5}}, TEXT, "inference-train", train={"lr": 2e-3}
    ),
    "consert-sup+sbert": _texts({"name": "consert-sup", "weight": 0.0}, TEXT, "inference-train", train={"lr": 2e-3}),
    "parallel-lines": _texts(
        {"name": "parallel-lines", "frequencies": "builtin:sentences", "least": 2},
        {"kind": "static", "tokenizer": "builtin", "dim": 16}, train={"lr": 0.05, "batch_size": 128},
    ),
    "whitenedcse": _texts({"name": "whitenedcse", "groups": 8}, CLS),
    "whitenedcse+sentence": _texts({"name": "whitenedcse", "groups": 8, "positives": 1, "by": "sentence"}, CLS),
    "unsee": _texts({"name": "unsee", "blocks": 2, "expansion": 2}, TEXT, guide={"ema": 0.9}),
    "unsee+corinfomax": _texts({"name": "unsee", "blocks": 1, "expansion": 2}, TEXT, guide={"ema": 0.9},
                               objective={"name": "corinfomax", "keys": "guide", "invariance": 50.0}),
    "clusterns": _texts("clusterns", {**CLS, "head": TRAIN_ONLY}, objective={
        "name": "clusterns", "clusters": 4, "start_cosine": 0.999, "margin_weight": 0.5, "alpha": 0.1}),
    "promcse": _texts({"name": "promcse", "prompt_length": 3}, {**CLS, "head": TRAIN_ONLY}, train={"lr": 1e-2}),
    "promcse+hinge": _texts(
        {"name": "promcse", "prompt_length": 3}, {**CLS, "head": {"kind": "tanh"}}, "triplets-train",
        objective={"name": "sum", "terms": [{"name": "infonce"}, {"name": "energy-hinge", "weight": 10}]},
        train={"lr": 1e-2},
    ),
    "tsdae": _texts("tsdae", CLS),
    "tsdae+untied": _texts({"name": "tsdae", "tied": False}, CLS, objective={"name": "cmim"}),
    "denosent": _texts({"name": "denosent", "layers": 2, "inner": 48, "noise": 0.5}, CLS, "pairs-train"),
    "denosent+paper": _texts(
        {"name": "denosent", "layers": 2, "inner": 48, "noise": 0.3, "fidelity": "paper"}, CLS, "pairs-train"
    ),
    "pairs+layers": _texts("pairs", TEXT, "triplets-train", objective={
        "name": "adaptive-layers", "objective": {"name": "matryoshka", "objective": "infonce", "dims": [32, 16, 8],
                                                 "per_step": 2},
    }),
    "simctg-term": _texts({"name": "simctg-term", "margin": 0.5}, TEXT),
    "simcse-unsup+simctg": _texts("simcse-unsup", CLS, auxiliary=[{"name": "simctg-term", "weight": 1.0}]),
    "vat": _texts({"name": "vat", "epsilon": 0.5}, TEXT),
    "vat+vectors": _texts({"name": "vat", "reads": "vectors", "epsilon": 0.5, "per": "text", "steps": 2}, TEXT),
    "views+urlbert": _texts(
        {"name": "views", "anchor": [_ADVERSARY], "positive": [{**_ADVERSARY, "step_size": 1e-5}]}, CLS,
        objective={"name": "ntxent", "temperature": 0.1},
        auxiliary=[{"name": "mlm", "weight": 10.0}, {"name": "vat", "weight": 1.0}],
    ),
    "graph-supcon": _texts(
        {"name": "graph-supcon", "associations": "builtin:inference-train", "tokens": 4}, TEXT, "inference-train"
    ),
    "views+graph-supcon": _texts(
        "views", TEXT, "inference-train", objective={"name": "supcon", "temperature": 0.1},
        auxiliary=[{"name": "graph-supcon", "weight": 1.0, "associations": "builtin:inference-train", "tokens": 4}],
    ),
    "csr": _texts({"name": "csr", "k": 4, "k_aux": 16, "dead_after": 1}, TEXT),
    "csr+pairs": _texts(
        {"name": "csr", "k": 4, "k_aux": 16, "dead_after": 1, "train_encoder": True}, TEXT, "triplets-train",
        objective={"name": "sum", "terms": [{"name": "infonce", "temperature": 0.2, "weight": 0.1}]},
    ),
}  # fmt: skip
