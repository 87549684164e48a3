"""What embedkit does where a library below it, or a peer, does something else (docs/differences.md)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from embedkit.config.recipe import TrainConfig
from embedkit.data import read_rows
from embedkit.errors import NonFiniteError
from embedkit.evaluation.measures.search import array_blocks, exact_top_k
from embedkit.objectives import ObjectiveBatch, build
from embedkit.training.optim.optimizer import schedule_factor
from tests.helpers import tiny


def test_the_rate_stays_at_its_end_after_the_last_step() -> None:
    config = TrainConfig(max_steps=10, lr=0.1, schedule="cosine")
    ends = [schedule_factor(step, 10, config) for step in range(9, 40)]
    assert max(ends[1:]) <= ends[0]


def test_a_batch_of_one_class_pulls_it_together() -> None:
    z = torch.nn.functional.normalize(
        torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    z.requires_grad_(True)
    views = {"anchor": z[:2], "positive": z[2:]}
    batch = ObjectiveBatch.of(views, label=torch.zeros(2, dtype=torch.long))
    loss = build({"name": "supcon", "temperature": 0.07}).double()(views, batch).loss
    s = (z @ z.T / 0.07).detach()
    plain = 0.0
    for i in range(4):
        others = [j for j in range(4) if j != i]
        total = math.log(sum(math.exp(float(s[i, j])) for j in others))
        plain += sum(total - float(s[i, j]) for j in others) / 3 / 4
    assert float(loss.detach()) == pytest.approx(plain, rel=1e-9)
    loss.backward()
    assert z.grad is not None and float(z.grad.abs().max()) > 0


@pytest.mark.parametrize("words", [1, 40], ids=["short", "long"])
def test_a_nan_in_a_query_is_never_swallowed(words: int) -> None:
    model = tiny.text_encoder()
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "query.weight" in n)[0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        model.encode(["red " * words])


def test_a_float64_score_keeps_its_digits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    score = 0.123456789012345678
    datasets.Dataset.from_dict({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [score, 0.5]}).save_to_disk(
        str(tmp_path / "d")
    )
    rows = list(read_rows(str(tmp_path / "d")))
    assert rows[0]["score"] == score


def test_two_copies_of_one_vector_do_not_hide_others() -> None:
    random = np.random.default_rng(0)
    distinct = random.normal(size=(50, 16)).astype(np.float32)
    documents = np.concatenate([distinct, np.repeat(random.normal(size=(1, 16)), 300, 0)]).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    _, places = exact_top_k(distinct, array_blocks(documents, 64), 1, len(documents))
    assert places[:, 0].tolist() == list(range(50))
