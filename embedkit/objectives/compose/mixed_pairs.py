"""The loss of a batch whose rows are mixed with others: any objective, once for each of the two."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from embedkit.objectives.base import LossOutput, Objective, ObjectiveBatch


def evaluated(objective: Objective, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
    """What the objective says of a batch; where rows are mixed, the weighted mean of what it says with each row's own
    positive and with its partner's (ZeroVL, Cui et al. 2022, section 3.2).

    Metrics are those with the own positives. State moves by the own positives alone.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> mixed = ObjectiveBatch.of(z, mix=(torch.tensor([1, 0]), 0.75))
    >>> own, other = (build("infonce")({**z, "positive": p}, ObjectiveBatch.of(z)).loss for p in (z["positive"],
    ...               z["positive"].flip(0)))
    >>> torch.allclose(evaluated(build("infonce"), z, mixed).loss, 0.75 * own + 0.25 * other)
    True
    """
    if batch.mix is None:
        return objective(embeddings, batch)  # type: ignore[no-any-return]
    partner, share = batch.mix
    own = objective(embeddings, batch)
    swapped = {name: values["positive"][partner] for name, values in (("z", embeddings), ("key", batch.keys))}
    guide = {name: z[partner] if name == "positive" else z for name, z in batch.guide.items()}
    other_batch = replace(batch, keys={**batch.keys, "positive": swapped["key"]}, guide=guide)
    other = objective({**embeddings, "positive": swapped["z"]}, other_batch)
    names = own.terms.keys() | other.terms.keys()
    terms = {name: share * own.terms.get(name, 0.0) + (1.0 - share) * other.terms.get(name, 0.0) for name in names}
    return LossOutput(share * own.loss + (1.0 - share) * other.loss, terms, own.metrics)
