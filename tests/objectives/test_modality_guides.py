"""A modality as the guide of others: its neighbours are positives there, over the rows that have all three."""

from __future__ import annotations

import pytest
import torch

from embedkit.errors import RecipeError
from embedkit.objectives import ObjectiveBatch, build

ROWS = {"image": [0, 1, 2, 3, 4, 5], "caption": [0, 1, 2, 4, 5], "sound": [0, 2, 3, 4, 5]}
BOTH = [0, 2, 4, 5]
ICON = {"name": "icon", "target": "graph", "neighbours": 2, "temperature": 0.5}


def _vectors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(len(rows), 4, requires_grad=True) for name, rows in ROWS.items()}


def _loss(z: dict[str, torch.Tensor], rows: slice, **settings: object) -> torch.Tensor:
    config = {"name": "modality-pairs", "names": list(ROWS), "pairs": [["image", "caption"]], "objective": ICON}
    owner = {name: torch.tensor(own) for name, own in ROWS.items()}
    return build({**config, **settings})(z, ObjectiveBatch.of(z, size=6, owner=owner, rows=rows)).loss


def test_the_guide_is_another_modality_of_the_rows_that_have_it() -> None:
    z = _vectors()
    at = {name: [ROWS[name].index(row) for row in BOTH] for name in ROWS}
    pair = {"anchor": z["image"][at["image"]], "positive": z["caption"][at["caption"]]}
    sound = z["sound"][at["sound"]].detach()
    alone = build(ICON)(pair, ObjectiveBatch.of(pair, guide={"anchor": sound, "positive": sound})).loss
    loss = _loss(z, slice(0, 6), guide="sound")
    assert torch.allclose(loss, alone)
    loss.backward()
    assert z["sound"].grad is None or not z["sound"].grad.any()  # a guide is not trained by what it guides
    assert z["image"].grad is not None and z["image"].grad.any()


def test_its_vectors_decide_the_positives() -> None:
    z = _vectors()
    other = dict(z) | {"sound": z["sound"].flip(0)}
    assert not torch.allclose(_loss(z, slice(0, 6), guide="sound"), _loss(other, slice(0, 6), guide="sound"))


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_the_shares_of_processes_add_up(cut: int) -> None:
    z = _vectors()
    whole = torch.autograd.grad(_loss(z, slice(0, 6), guide="sound"), [z["image"], z["caption"]])
    shares = [_loss(z, part, guide="sound") for part in (slice(0, cut), slice(cut, 6))]
    parts = torch.autograd.grad(sum(shares, torch.zeros(())), [z["image"], z["caption"]])
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(whole, parts, strict=True))
    assert torch.allclose(sum(shares, torch.zeros(())), _loss(z, slice(0, 6), guide="sound"))


def test_a_guide_of_the_recipe_is_not_asked_for() -> None:
    config = {"name": "modality-pairs", "names": list(ROWS), "pairs": [["image", "caption"]], "objective": ICON}
    assert build({**config, "guide": "sound"}).requires == frozenset(ROWS)
    assert "guide" in build(config).requires


def test_a_guide_that_the_objective_does_not_read_is_refused() -> None:
    with pytest.raises(RecipeError, match="guide is 'sound'"):
        build({"name": "modality-pairs", "names": list(ROWS), "objective": "infonce", "guide": "sound"})
