"""What a queue knows of its vectors: labels, groups, scores and the guide's vectors travel with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embedkit.errors import DataError
from embedkit.objectives import build
from embedkit.objectives.base import Objective, ObjectiveBatch
from embedkit.objectives.matrix.similarity import NOBODY, score_ids
from tests.objectives.oracles import softmax

LABELS = torch.tensor([0, 0, 1, 1, 2])
DIM = 6


def pairs(seed: int, size: int = 5) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, DIM, generator=draw, dtype=torch.float64) for name in ("anchor", "positive")}


def queued(size: int = 8, name: str = "supcon", **settings: Any) -> Objective:
    bank = {"name": "queue", "size": size, "random_start": False, "in_batch": True, **settings.pop("bank", {})}
    return build({"name": name, "bank": bank, **settings}, dim=DIM, num_rows=20).double()


def loss_after(objective: Objective, first: dict[str, Tensor], then: dict[str, Tensor], **roles: Any) -> float:
    objective.after_step(first, ObjectiveBatch.of(first, **roles))
    return float(objective(then, ObjectiveBatch.of(then, **roles)).loss)


@pytest.mark.parametrize("reducer", ["out", "in"])
def test_supcon_with_a_queue_is_supcon_over_the_batch_and_the_queue(reducer: str) -> None:
    """Own class in the queue attracts and does not repel: the plain loops over all vectors with all labels."""
    first, then = pairs(0), pairs(1)
    loss = loss_after(queued(reducer=reducer), first, then, label=LABELS)
    kept = torch.cat([first["anchor"], first["positive"]])[-8:]
    kept_labels = LABELS.repeat(2)[-8:].tolist()
    every = np.concatenate([then["anchor"].numpy(), then["positive"].numpy(), kept.numpy()])
    rows = softmax.supcon_rows(every, [*LABELS.tolist(), *LABELS.tolist(), *kept_labels], 0.07, reducer == "in")[:10]
    assert loss == pytest.approx(np.mean([row for row in rows if row is not None]), rel=1e-12)


def test_vectors_without_labels_in_the_queue_would_repel_their_own_class() -> None:
    """The loss of the reported case: higher, as if all that is kept were of other classes."""
    first = pairs(0)
    unlabelled = queued()
    unlabelled.bank.keeps_roles = False  # type: ignore[union-attr]
    assert loss_after(queued(), first, first, label=LABELS) < loss_after(unlabelled, first, first, label=LABELS) - 0.5


def test_a_queued_vector_of_the_anchors_group_neither_attracts_nor_repels() -> None:
    first, then, groups = pairs(0), pairs(1), torch.arange(5)
    for size, same in ((5, True), (5, False)):
        objective = queued(size, "moco", bank={"in_batch": False})
        objective.after_step(first, ObjectiveBatch.of(first, group=groups if same else groups + 5))
        loss = float(objective(then, ObjectiveBatch.of(then, group=groups)).loss)
        anchor, positive, kept = (torch.nn.functional.normalize(z) for z in (*then.values(), first["positive"]))
        logits = anchor @ kept.T / 0.2
        if same:
            logits = logits.masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf)
        own = (anchor * positive).sum(1) / 0.2
        expected = torch.cat([own[:, None], logits], 1).logsumexp(1) - own
        assert loss == pytest.approx(float(expected.mean()), rel=1e-12)


def test_equal_scores_are_positives_in_the_queue_too() -> None:
    first, then, score = pairs(0), pairs(1), torch.tensor([0.1, 0.5, 0.1, -0.0, 0.0])
    same = loss_after(queued(by="score"), first, then, score=score)
    as_labels = loss_after(queued(), first, then, label=torch.tensor([0, 1, 0, 2, 2]))
    assert same == pytest.approx(as_labels, rel=1e-12)


def test_scores_without_a_value_are_nobodys() -> None:
    ids = score_ids(torch.tensor([0.5, float("nan"), 0.5]))
    assert ids[0] == ids[2] != NOBODY
    assert ids[1] == NOBODY


def test_random_vectors_at_the_start_have_no_label_and_repel() -> None:
    objective = queued(random_start=True, bank={"random_start": True})
    objective.begin(frozenset({"label"}))
    then = pairs(1)
    assert bool((objective.get_buffer("bank.label") == NOBODY).all())
    repelled = float(objective(then, ObjectiveBatch.of(then, label=LABELS)).loss)
    assert repelled > float(build("supcon")(then, ObjectiveBatch.of(then, label=LABELS)).loss)


def test_room_is_made_before_a_resume_so_that_the_state_fits() -> None:
    first = pairs(0)
    saved, fresh = queued(), queued()
    for objective in (saved, fresh):
        objective.begin(frozenset({"label", "group"}))
    saved.after_step(first, ObjectiveBatch.of(first, label=LABELS, group=LABELS))
    fresh.load_state_dict(saved.state_dict())
    then = pairs(1)
    batch = ObjectiveBatch.of(then, label=LABELS, group=LABELS + 3)
    assert float(fresh(then, batch).loss) == float(saved(then, batch).loss)
    assert "bank.label" not in queued().state_dict()  # without labels a checkpoint is what it was


def test_the_guides_vectors_are_kept_where_the_target_reads_them() -> None:
    """MLS needs no `guide_dim`: the size is that of the guide."""
    objective = build({"name": "mls", "size": 6, "neighbours": 2, "random_start": False}, dim=DIM).double()
    objective.begin(frozenset(), 3)
    assert objective.get_buffer("bank.guides").shape == (6, 3)
    moco = build({"name": "moco", "size": 6, "keys": "guide"}, dim=DIM)
    moco.begin(frozenset(), 3)
    assert moco.get_buffer("bank.guides").shape[0] == 0  # nothing reads them there
    first = pairs(0)
    guide = {name: torch.randn(5, 3, dtype=torch.float64) for name in first}
    batch = ObjectiveBatch.of(first, guide=guide)
    objective.after_step(first, batch)
    assert torch.isfinite(objective(first, batch).loss)


def test_neighbours_of_a_guide_of_another_size_are_refused_before_the_queue_holds_any() -> None:
    objective = build({"name": "nnclr", "size": 6, "hidden": 4, "keys": "guide"}, dim=DIM).double()
    z = pairs(0)
    narrow = {name: torch.ones(len(vectors), DIM - 1, dtype=torch.float64) for name, vectors in z.items()}
    with pytest.raises(DataError, match=f"the keys, of {DIM} columns, .* its vectors have {DIM - 1} columns"):
        objective(z, ObjectiveBatch.of(z, guide=narrow))
