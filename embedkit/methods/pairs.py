"""Plain fine-tuning on one's own pairs, triplets or scored pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods


def role_views(rows: Sequence[Row], prompts: dict[str, str] | None = None) -> dict[str, View]:
    """One view a text role: anchor and positive with one text a row, negatives with as many as each row has."""
    prompts = prompts or {}
    views = {
        role: View([row[role] for row in rows], list(range(len(rows))), prompts.get(role))
        for role in ("anchor", "positive")
        if rows and role in rows[0]
    }
    if rows and "negatives" in rows[0]:
        hard = [row["negatives"] for row in rows]
        owner = [i for i, texts in enumerate(hard) for _ in texts]
        views["negatives"] = View([text for texts in hard for text in texts], owner, prompts.get("negatives"))
    return views


@methods.add("pairs")
class Pairs(Method):
    """Anchor and positive, with any number of hard negatives a row; or two texts with a score.

    With pairs and triplets the objective is InfoNCE over positives and hard negatives of the whole batch (van den Oord
    et al. 2018; Gao et al. 2021, section 4). For scored pairs choose an objective that reads scores, such as CoSENT.

    Parameters
    ----------
    prompts : dict, optional
        Role -> prompt text, for models that want "query: " and "passage: ".
    """

    paper: ClassVar[str] = "van den Oord et al. 2018, arXiv 1807.03748"
    contract: ClassVar[Contract] = Contract(
        requires=frozenset({"anchor", "positive"}), accepts=frozenset({"negatives", "score", "scores", "label", "group"})
    )
    objective: ClassVar[dict[str, Any]] = {"name": "infonce", "temperature": 0.05}

    def __init__(self, prompts: dict[str, str] | None = None) -> None:
        self.prompts = prompts

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return role_views(rows, self.prompts)


@methods.add("nli-static")
class NliStatic(Pairs):
    """A static bag-of-word-pieces encoder trained on NLI and caption pairs with in-batch negatives.

    The training signal of Reimers and Gurevych 2019 (NLI) and Gao et al. 2021 (entailment as positive, contradiction as
    hard negative) on the encoder of Pagliardini et al. 2018 (a mean of trained word vectors).
    """

    paper: ClassVar[str] = "Pagliardini et al. 2018, NAACL; Gao et al. 2021, section 4"
