"""SimCSE: contrastive learning of sentence embeddings with dropout as the only augmentation, or with NLI pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods
from embedkit.methods.pairs import role_views


@methods.add("simcse-unsup")
class SimCSEUnsupervised(Method):
    """Unsupervised SimCSE (Gao et al. 2021, section 3).

    Views: every sentence twice; the only difference is the encoder's own dropout. Objective: InfoNCE from the first
    copy to the second, the other sentences' second copies as negatives, temperature 0.05. The recipe gives the encoder
    a tanh head on [CLS] that is used in training only; evaluation reads [CLS] itself (section 6.3), and the saved model
    says so.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["simcse-unsup"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'infonce')
    """

    paper: ClassVar[str] = "Gao et al. 2021, EMNLP, section 3"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))
    objective: ClassVar[dict[str, Any]] = {"name": "infonce", "temperature": 0.05}

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        texts = [row["anchor"] for row in rows]
        return {name: View(texts, list(range(len(rows)))) for name in ("anchor", "positive")}


@methods.add("simcse-sup")
class SimCSESupervised(Method):
    """Supervised SimCSE (Gao et al. 2021, section 4).

    Views: premise as anchor, entailed hypothesis as positive, contradicted ones as hard negatives (any number).
    Objective: InfoNCE, temperature 0.05; the negatives of an anchor are the other positives and *all* hard negatives of
    the batch. The weight of an anchor's own hard negatives is a logit added to them, as in the official code
    (``hard_negative_weight``, 0 by default). The tanh head on [CLS] stays at inference.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["simcse-sup"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor', 'positive'], 'infonce')
    """

    paper: ClassVar[str] = "Gao et al. 2021, EMNLP, section 4"
    contract: ClassVar[Contract] = Contract(
        requires=frozenset({"anchor", "positive"}), accepts=frozenset({"negatives"})
    )
    objective: ClassVar[dict[str, Any]] = {"name": "infonce", "temperature": 0.05}

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return role_views(rows)
