"""Outputs that are no embeddings, added names, terms and state of a method are equal for any split of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from embedkit.methods.base import View
from embedkit.methods.pairs import Pairs
from embedkit.training.loop.cache import Chunking
from tests.training import common


class Toy(Pairs):
    """Hard negatives of another width, a view of one number a row, noise negatives, two terms, a running sum."""

    def parts(self, model: Any) -> nn.ModuleDict:
        part = nn.Linear(model.training_dim, 3, bias=False)
        nn.init.ones_(part.weight)
        part.register_buffer("seen", torch.zeros(3))
        return nn.ModuleDict({"part": part})

    def views(self, rows: Any, random: Any) -> dict[str, View]:
        found = super().views(rows, random)
        found["negatives"].settings = {"twice": True}
        found["length"] = View(found["anchor"].inputs, found["anchor"].owner, settings={"square": True})
        return found

    def embed(self, model: Any, parts: Any, inputs: Any, **settings: Any) -> torch.Tensor:
        z = model(inputs)
        if settings.get("twice"):
            return torch.cat([z, 2 * z], dim=1)
        return z.square().sum(1, keepdim=True) if settings.get("square") else z

    def project(self, outputs: Any, batch: Any, parts: Any) -> dict[str, torch.Tensor]:
        first, second = outputs["negatives"].chunk(2, dim=1)
        noise = torch.randn(5, first.shape[1], generator=batch.generator("terms"), dtype=torch.float64)
        batch.owner["negatives"] = torch.cat([batch.owner["negatives"], torch.full((5,), -1)])
        batch.keys["negatives"] = torch.cat([batch.keys["negatives"], torch.arange(5)])
        shift = parts["part"].weight.mean()
        return {"anchor": outputs["anchor"], "positive": outputs["positive"] * shift,
                "negatives": torch.cat([first + second, noise])}  # fmt: skip

    def terms(self, outputs: Any, embeddings: Any, batch: Any, parts: Any) -> dict[str, torch.Tensor]:
        own = slice(batch.rows.start, batch.rows.stop)
        spread = embeddings["positive"].var(0).sum() * batch.share  # of the whole batch: a share of it
        return {"length": outputs["length"][own].sum() / batch.size, "spread": spread}

    def local_terms(
        self, name: str, embeddings: Any, inputs: Any, batch: Any, model: Any, parts: Any
    ) -> dict[str, Any]:
        if name != "positive":
            return {}
        tokens = torch.from_numpy(inputs.costs).to(embeddings)[:, None]
        return {"local": (parts["part"](embeddings).square() * tokens).sum() / batch.lengths["positive"].sum()}

    def after_step(self, outputs: Any, embeddings: Any, batch: Any, model: Any, parts: Any) -> None:
        parts["part"].seen += embeddings["positive"].mean(0)[:3]


def rows(count: int) -> list[dict[str, Any]]:
    """Only the first rows have hard negatives: the last process has an empty view."""
    found = common.rows(count)
    for row in found[3:]:
        row["negatives"] = []
    return found


def one(chunking: Chunking) -> tuple[float, dict[str, float], dict[str, torch.Tensor], torch.Tensor]:
    step = common.make_step({"name": "infonce"}, chunking, method=Toy())
    result = step.gradients(common.step_batch(step, rows(11)))
    step.after_update()
    terms = {name: float(value) for name, value in result.terms.items()}
    return float(result.loss), terms, common.gradients(step), step.bundle.parts["part"].seen


@pytest.mark.parametrize("chunking", [Chunking(size=2, keep=0), Chunking(tokens=30, keep=1)], ids=str)
def test_chunks_change_nothing(chunking: Chunking) -> None:
    loss, terms, wanted, seen = one(Chunking())
    found = one(chunking)
    assert found[0] == pytest.approx(loss, rel=1e-12)
    assert found[1] == pytest.approx(terms, rel=1e-12)
    assert set(terms) >= {"length", "spread", "local"}
    assert common.largest_error(found[2], wanted) < 1e-9
    assert torch.allclose(found[3], seen, rtol=1e-12)
    assert seen.abs().max() > 0


@pytest.mark.parametrize("world", [2, 4])
def test_processes_change_nothing_even_where_one_has_no_input_of_a_view(processes: Any, world: int) -> None:
    loss, terms, wanted, seen = one(Chunking())
    results = processes(world).run(one, Chunking(size=2, keep=1))
    assert sum(found[0] for found in results) == pytest.approx(loss, rel=1e-12)
    for name, value in terms.items():
        assert sum(found[1][name] for found in results) == pytest.approx(value, rel=1e-12), name
    for found in results:
        assert common.largest_error(found[2], wanted) < 1e-9
        assert torch.allclose(found[3], seen, rtol=1e-12)


def test_the_loss_is_the_sum_of_objective_and_terms() -> None:
    step = common.make_step({"name": "infonce"}, method=Toy())
    batch = common.step_batch(step, rows(11))
    result = step.gradients(batch)
    assert step.latest is not None
    outputs, embeddings, known = step.latest.outputs, step.latest.embeddings, step.latest.batch
    own = float(step.bundle.objective(embeddings, known).loss)
    assert float(result.loss) == pytest.approx(own + sum(float(result.terms[n]) for n in ("length", "spread", "local")))
    z = step.bundle.model(batch.pools[0].inputs.select(range(11)))
    assert torch.allclose(outputs["length"][:, 0], z.square().sum(1))
    assert embeddings["negatives"].shape == (len(batch.owner["negatives"]) + 5, 32)
