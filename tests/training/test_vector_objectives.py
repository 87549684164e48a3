"""Every objective trains an encoder of vectors, and the gradient cache changes none of its gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkit.errors import RecipeError, UserError
from embedkit.objectives.registry import presets
from embedkit.training.loop.cache import Chunking
from tests.methods.matrix import gradients
from tests.objectives.cases import CASES

SETTINGS = {case.name: case.settings for case in reversed(CASES)} | {"mls": {}, "hydra": {}}  # sizes of other vectors
NOT_HERE = {
    "adaptive-layers": "vectors of layers", "care": "groups of one draw", "gram-equivariance": "groups of one draw",
    "context": "documents", "cpc": "documents", "aligned-cpc": "documents", "bidirectional": "documents",
    "bridge": "documents", "order": "documents", "temporal-cycle": "documents", "margin-mse": "a teacher's scores",
    "sum": "a third view", "swalip": "a third view", "view-pairs": "a third view",
    **dict.fromkeys(("embedding-mse", "soft-targets", "distill-kl"), "a guide that is not the encoder still"),
    "modality-pairs": "modalities of a row", "modality-views": "modalities of a row",
    "mochi": "a queue with rows", "moco-filtered": "a queue with rows", "moco-interpolated": "a queue with rows",
}  # fmt: skip
"""What the settings above ask for, and a first step on pairs of vectors does not give."""


def recipe(name: str, path: str, columns: dict[str, str]) -> dict[str, Any]:
    return {
        "name": name, "method": "pairs", "objective": {"name": name, **SETTINGS[name]},
        "data": {"train": [{"path": path, "columns": columns}]},
        "model": {"kind": "feature", "feature": {"form": "mlp", "dim": 8, "scaling": "standard"}},
        "train": {"batch_size": 8, "max_steps": 20, "holdout": 0.0, "output": "run"},
    }  # fmt: skip


def trained(name: str, path: str) -> bool:
    """Whether an objective trains on rows of some of these roles; if so, in chunks as in one piece."""
    columns = {"a": "anchor", "p": "positive"}
    extra = {"negatives": {"n": "negative_1", "m": "negative_2"}, "label": {"c": "label"}, "score": {"s": "score"}}
    for roles in ((), ("label",), ("score",), ("negatives",), ("negatives", "label")):
        more = {column: role for one in roles for column, role in extra[one].items()}
        for guide in ({}, {"guide": {"ema": 0.9}}):
            given = recipe(name, path, columns | more) | guide
            try:
                loss, whole = gradients(given)
            except (RecipeError, UserError):
                continue
            other, parts = gradients(given, Chunking(size=3, keep=1))
            assert other == pytest.approx(loss, rel=1e-9)
            largest = max(float(g.norm()) for g in whole.values())
            if largest < 1e-12:  # the guide is still what the encoder is
                continue
            for key, g in whole.items():
                assert float((parts[key] - g).norm()) <= 1e-8 * (float(g.norm()) + 1e-3 * largest), key
            return True
    return False


@pytest.mark.slow
def test_every_objective_trains_on_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 32, 6)).astype(np.float32)
    np.savez("rows.npz", a=x[0], p=x[1], n=x[2], m=x[3], c=np.arange(32) % 4, s=rng.random(32))
    untrained = {name for name in presets if not trained(name, "rows.npz")}
    assert untrained == set(NOT_HERE)
