"""The same negatives as sentence-transformers' `mine_hard_negatives`, where the settings mean the same."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

import embedkit
from embedkit.data import read_rows
from embedkit.data.builtin.sentences import tokenizer
from embedkit.models import StaticEncoder

sentence_transformers = pytest.importorskip("sentence_transformers")
NAMES = {"range_min", "range_max", "absolute_margin", "relative_margin", "max_score", "min_score", "num_negatives",
         "sampling_strategy", "output_format", "verbose"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peer") / "model"
    torch.manual_seed(3)
    StaticEncoder(tokenizer(), dim=48).save(path)
    return path


@pytest.mark.parametrize("several", [False, True], ids=["one positive", "several"])
@pytest.mark.parametrize("settings", [
    {}, {"num_negatives": 5}, {"range_min": 4, "range_max": 20}, {"relative_margin": 0.05}, {"absolute_margin": 0.1},
    {"max_score": 0.6, "min_score": 0.1}, {"relative_margin": 0.2, "max_score": 0.5},
], ids=str)  # fmt: skip
def test_same_negatives(folder: Path, settings: dict[str, Any], several: bool) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    if not set(inspect.signature(mine_hard_negatives).parameters) >= NAMES:
        pytest.skip("this version has other settings")
    pairs = list({row["anchor"]: row for row in read_rows("builtin:pairs-train", limit=150)}.values())
    positives = {row["positive"] for row in pairs}
    pairs = [{"anchor": row["anchor"], "positive": row["positive"]} for row in pairs if row["anchor"] not in positives]
    if several:
        pairs += [{"anchor": row["anchor"], "positive": f"{row['positive']} again"} for row in pairs[:40]]
    candidates = len({row["positive"] for row in pairs})
    # with filters their ranks count what the filters leave, of as many candidates as range_max says: all of them here
    whole = {"range_max": candidates} if set(settings) & {"relative_margin", "absolute_margin", "max_score"} else {}
    theirs = mine_hard_negatives(
        Dataset.from_list(pairs), SentenceTransformer(str(folder), device="cpu"), sampling_strategy="top",
        output_format="n-tuple", verbose=False, **{**whole, **settings},
    )  # fmt: skip
    ours = embedkit.mine(pairs, embedkit.load(folder), too_few="drop", **{**whole, **settings})
    key = lambda row: (row["anchor"], row["positive"])  # noqa: E731
    assert len(theirs) > 50
    assert sorted(ours.rows, key=key) == sorted(theirs.to_list(), key=key)
