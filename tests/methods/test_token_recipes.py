"""Recipes of sparse codes, token terms and topics have the published settings.

The table is written from the collected reference (`../shared/reference/sentence-methods-2.md`, sections in the
comments), never from the recipes. None: it is not said there.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.methods import test_published_settings as published
from tests.methods.test_published_settings import BERT, DROPPED, NONE, TRAINER, row

UNKNOWN: dict[str, Any] = dict.fromkeys([*published.KEYS, *published.MADE])

PUBLISHED: dict[str, dict[str, Any]] = {
    # 25, the line for text; there on vectors of NV-Embed-v2. A step there has about three passes of the count to 30.
    "csr": row(UNKNOWN, 4e-5, 128, 10, seed=1227, decay=0.0, schedule="constant", eps=6.25e-10, clip=NONE, **{
        "method.k": 32, "method.k_aux": 1024, "method.expansion": 16384 // 4096, "method.wide": 1 / 8,
        "method.dead": 1 / 32, "method.dead_after": 30 // 3, "method.train_encoder": False,
        "objective.terms.0.name": "ntxent", "objective.terms.0.temperature": 0.2, "objective.terms.0.weight": 0.1,
    }),
    # 22: two optimisers, 2e-6 for words and the adversary, 1e-5 for the contrast
    "urlbert": row(UNKNOWN, 1e-5, 64, 10, clip=1.0, temperature=0.1, **{
        "objective.name": "ntxent", "model.config.model_type": "bert", "model.config.hidden_dropout_prob": 0.2,
        "pooling": "cls", "auxiliary.0.name": "mlm", "auxiliary.0.weight": 10.0, "auxiliary.1.name": "vat",
        "auxiliary.1.weight": 1.0, "auxiliary.1.steps": 1, "auxiliary.1.step_size": 1e-3, "auxiliary.1.per": "token",
        "method.anchor.0.steps": 2, "method.anchor.0.step_size": 0.1, "method.anchor.0.start": 1e-5,
        "method.anchor.0.per": "token", "method.positive.0.step_size": 1e-5, "method.positive.0.steps": 2,
    }),
    # 20: margin and weight of the term; the recipe around it is SimCSE's
    "simctg-term": row(TRAINER, 3e-5, 64, 1, BERT, head=DROPPED, **{
        "auxiliary.0.name": "simctg-term", "auxiliary.0.margin": 0.5, "auxiliary.0.weight": 1.0,
    }),
    # no section: abstracts only
    "graph-supcon": row(UNKNOWN, None, None, None),
    "topic-moco": row(UNKNOWN, None, None, None, **{"objective.name": "set-contrast"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_recipe_has_the_published_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {*published.KEYS, *published.MADE} <= set(PUBLISHED[name]), "what is not known is said"
    monkeypatch.setattr(published, "PUBLISHED", PUBLISHED)
    published.test_the_recipe_has_the_published_settings(name)
