"""The target shared-input: equal images, equal captions and groups are positives, found independently here."""

from __future__ import annotations

import itertools

import pytest
import torch

from embedkit import objectives
from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.parts.shared_inputs import tied_rows

IMAGES = [1, 2, 1, 3, 4, 5, 6]
TEXTS = [10, 11, 12, 12, 13, 14, 15]
GROUPS = [-1, -2, -3, -4, -5, 70, 70]
PIECES = [{0, 2, 3}, {1}, {4}, {5, 6}]  # 0 and 2 show one image, 2 and 3 say one caption, 5 and 6 are of one group


def _batch(**changes: object) -> tuple[dict[str, torch.Tensor], ObjectiveBatch]:
    torch.manual_seed(0)
    z = {name: torch.randn(7, 5, dtype=torch.float64, requires_grad=True) for name in ("anchor", "positive")}
    keys = {"anchor": torch.tensor(IMAGES), "positive": torch.tensor(TEXTS)}
    known = {"keys": keys, "group": torch.tensor(GROUPS), **changes}
    return z, ObjectiveBatch.of(z, **known)


def test_rows_are_tied_by_images_captions_and_groups() -> None:
    _, batch = _batch()
    piece = tied_rows(batch).tolist()
    for i, j in itertools.product(range(7), repeat=2):
        assert (piece[i] == piece[j]) == any({i, j} <= known for known in PIECES)


def test_an_image_and_a_caption_with_one_key_are_not_tied() -> None:
    _, batch = _batch(keys={"anchor": torch.arange(7), "positive": torch.arange(7).roll(1)}, group=None)
    assert tied_rows(batch).tolist() == list(range(7))


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_loss_is_that_of_the_naive_formula(name: str) -> None:
    z, batch = _batch()
    given = {"name": name, "target": "shared-input", "temperature": 0.2}
    loss = objectives.build(given, dim=5).double()
    found = loss(z, batch).loss
    unit = {n: x / x.norm(dim=1, keepdim=True) for n, x in z.items()}
    same = torch.tensor([[any({i, j} <= known for known in PIECES) for j in range(7)] for i in range(7)])
    logits = unit["anchor"] @ unit["positive"].T / 0.2
    if name == "siglip":
        logits = logits - 10.0
        each = torch.where(same, torch.nn.functional.softplus(-logits), torch.nn.functional.softplus(logits))
        assert torch.allclose(found, each.sum() / 7, atol=1e-10)
        return
    wanted = []
    for table, mask in ((logits, same), (logits.T, same.T)):
        rows = []
        for i in range(7):
            negative = table[i][~mask[i]].exp().sum()
            rows.append(torch.stack([-(t - (t.exp() + negative).log()) for t in table[i][mask[i]]]).mean())
        wanted.append(torch.stack(rows).mean())
    assert torch.allclose(found, torch.stack(wanted).mean(), atol=1e-10)


def test_without_ties_it_is_plain_clip() -> None:
    z, batch = _batch(keys={"anchor": torch.arange(7), "positive": torch.arange(7, 14)}, group=None)
    both = [objectives.build({"name": "clip", "target": target}, dim=5).double() for target in ("same", "shared-input")]
    plain, tied = (loss(z, batch).loss for loss in both)
    assert torch.allclose(plain, tied, atol=1e-12)


def test_several_captions_of_an_image_are_all_positives() -> None:
    z, _ = _batch()
    texts = torch.randn(9, 5, dtype=torch.float64)
    owner = {"anchor": torch.arange(7), "positive": torch.tensor([0, 0, 1, 2, 2, 3, 4, 5, 6])}
    keys = {"anchor": torch.arange(7), "positive": torch.arange(20, 29)}
    z = {"anchor": z["anchor"], "positive": texts}
    batch = ObjectiveBatch.of(z, size=7, rows=slice(0, 7), owner=owner, keys=keys, ids=torch.arange(7))
    found = objectives.build({"name": "clip", "target": "shared-input", "equal_inputs": True}, dim=5).double()(z, batch)
    other = objectives.build({"name": "clip", "target": "same"}, dim=5).double()(z, batch)
    assert torch.allclose(found.loss, other.loss, atol=1e-12)
