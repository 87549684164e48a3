"""The method `views` and the key `augment`: any chain with any method, drawn from (seed, epoch, step, row) only."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import RecipeError
from embedkit.factory import build
from embedkit.methods.common.augmenting import augmented, compose
from embedkit.methods.diffcse import DiffCSE
from embedkit.methods.micse import MiCSE
from embedkit.methods.pairs import Pairs
from embedkit.methods.sg_opt import SelfGuided
from embedkit.methods.simcse import SimCSEUnsupervised
from embedkit.methods.views import Views
from embedkit.training.loop.batches import prepare
from embedkit.training.loop.cache import Chunking
from embedkit.views.encoder import adversary, per_text
from tests.methods import toys
from tests.training import common

NOISY = [{"name": "word-deletion", "rate": 0.3}, "word-repetition", "word-shuffle"]
ROWS = [{"anchor": text} for text in common.texts(9)]


@lru_cache(maxsize=1)
def tiny() -> Any:
    """A model for its tokenizer."""
    return build(common.model_config())


def made(method: Any, rows: Any = ROWS, *, rank: int = 0, world: int = 1, step: int = 0, epoch: int = 0,
         seed: int = 1) -> dict[str, list[str]]:  # fmt: skip
    """Inputs of each view of this process's part of a batch."""
    batch = common.row_batch(rows, rank, world, step)
    views = prepare(batch, method, tiny(), seed=seed, epoch=epoch).views
    return {name: view.inputs for name, view in views.items()}


def test_views_are_a_function_of_seed_epoch_step_and_row() -> None:
    method = Views(positive=NOISY, anchor="word-repetition", more=["word-shuffle"])
    whole = made(method)
    assert set(whole) == {"anchor", "positive", "view3"}
    assert made(Views(positive=NOISY, anchor="word-repetition", more=["word-shuffle"])) == whole
    for world in (2, 3):
        parts = [made(method, rank=rank, world=world) for rank in range(world)]
        for name, texts in whole.items():
            assert [text for part in parts for text in part[name]] == texts
    for change in ({"step": 1}, {"epoch": 1}, {"seed": 2}):
        assert made(method, **change)["positive"] != whole["positive"], change


def test_rows_with_positives_keep_them() -> None:
    rows = [{"anchor": f"a{i}", "positive": None if i == 1 else f"p{i}", "negatives": ["n"] * i} for i in range(3)]
    found = made(Views(negatives=[{"name": "template", "text": "say {}"}]), rows)
    assert found == {"anchor": ["a0", "a1", "a2"], "positive": ["p0", "a1", "p2"], "negatives": ["n"] * 3}


def test_augment_changes_the_views_of_any_method() -> None:
    cls = augmented(SimCSEUnsupervised, {"positive": NOISY})
    assert issubclass(cls, SimCSEUnsupervised)
    assert cls.__doc__ == SimCSEUnsupervised.__doc__
    found, plain = made(cls()), made(SimCSEUnsupervised())
    assert found["anchor"] == plain["anchor"]
    assert found["positive"] != plain["positive"]
    assert made(SimCSEUnsupervised()) == plain  # the method itself is as it was


def test_wrong_names_are_told() -> None:
    with pytest.raises(RecipeError, match="no view 'positiv'"):
        made(augmented(SimCSEUnsupervised, {"positiv": NOISY})())
    with pytest.raises(RecipeError, match="mapping"):
        augmented(SimCSEUnsupervised, ["word-deletion"])  # type: ignore[arg-type]
    rows = [{"anchor": "a b", "positive": "c", "negatives": ["n", "m"]}] * 2
    with pytest.raises(RecipeError, match="not one text a row"):
        made(augmented(Pairs, {"negatives": "phrases"})(), rows)


def gradients_of(method: Any, chunking: Chunking, rows: Any = ROWS, dropout: float = 0.0) -> Any:
    step = common.make_step("infonce", chunking, method=method, config=common.model_config(dropout))
    torch.manual_seed(0)
    result = step.gradients(common.step_batch(step, rows))
    return step, result, common.gradients(step)


ENCODER = [{"name": "token-cutoff", "rate": 0.3}, "token-shuffle", {"name": "noise", "deviation": 0.1}]


@pytest.mark.parametrize("chunking", [Chunking(size=2, keep=0), Chunking(tokens=14, keep=1)], ids=str)
@pytest.mark.parametrize("positive", [NOISY, ENCODER, ["phrases"], ["feature-cutoff"], ["element-cutoff"],
                                      [{"name": "adversarial", "epsilon": 0.5}]], ids=str)  # fmt: skip
def test_chunks_do_not_change_the_gradient(positive: Any, chunking: Chunking) -> None:
    _, loss, wanted = gradients_of(Views(positive=positive), Chunking())
    _, again, found = gradients_of(Views(positive=positive), chunking)
    assert float(again.loss) == pytest.approx(float(loss.loss), rel=1e-9)
    assert common.largest_error(found, wanted) < 1e-8


def test_processes_do_not_change_the_gradient(processes: Any) -> None:
    wanted = _one()
    for found in processes(2).run(_one):
        assert common.largest_error(found, wanted) < 1e-8


def _one() -> dict[str, torch.Tensor]:
    return gradients_of(Views(positive=[*NOISY, *ENCODER, "phrases"]), Chunking(size=3, keep=1))[2]


def test_phrases_are_composed_before_the_loss() -> None:
    step, result, _ = gradients_of(Views(positive=[{"name": "phrases", "parts": 2, "even": True}]), Chunking())
    model = step.bundle.model
    anchors = torch.cat([model(model.prepare([row["anchor"]])) for row in ROWS])
    composed = []
    for row in ROWS:
        words = row["anchor"].split()
        half = len(words) // 2
        parts = [" ".join(words[:half]), " ".join(words[half:])] if half else [row["anchor"]]
        composed.append(torch.stack([model(model.prepare([part]))[0] for part in parts]).mean(0))
    unit = torch.nn.functional.normalize
    logits = unit(anchors, dim=1) @ unit(torch.stack(composed), dim=1).T / 0.05
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(9))
    assert float(result.loss) == pytest.approx(float(expected), rel=1e-9)


def test_composed_parts_have_one_guide_vector_and_one_key_a_row() -> None:
    names = {"anchor": torch.zeros(2, 3), "positive": torch.zeros(5, 3)}
    batch = toys.batch(names, 2, guide={"positive": torch.arange(10.0).view(5, 2), "anchor": torch.ones(2, 2)})
    batch.owner["positive"] = torch.tensor([0, 0, 1, 1, 1])
    batch.lengths["positive"] = torch.tensor([1, 2, 3, 4, 5])
    z = torch.randn(5, 3)

    def composed(*keys: int) -> tuple[torch.Tensor, Any]:
        own = replace(batch, keys={"positive": torch.tensor(keys)}, owner=dict(batch.owner), guide=dict(batch.guide),
                      lengths=dict(batch.lengths))  # fmt: skip
        return compose("positive", z, own), own

    mean, known = composed(7, 8, 7, 8, 9)
    torch.testing.assert_close(mean, torch.stack([z[:2].mean(0), z[2:].mean(0)]))
    torch.testing.assert_close(known.guide["positive"], torch.tensor([[1.0, 2.0], [6.0, 7.0]]))
    assert known.lengths["positive"].tolist() == [3, 12]
    assert known.owner["positive"].tolist() == [0, 1]
    first, second = known.keys["positive"].tolist()
    assert first != second  # the same first phrase is no equal text
    assert composed(7, 8, 8, 7, 9)[1].keys["positive"].tolist()[0] == first
    assert composed(8, 7, 7, 8, 9)[1].keys["positive"].tolist()[0] != first  # nor are the same phrases in another order


@pytest.mark.parametrize("cls", [DiffCSE, MiCSE, SelfGuided])
def test_methods_that_read_whole_texts_take_no_parts(cls: Any) -> None:
    with pytest.raises(RecipeError, match=r"method\.augment\.positive: the method reads whole texts"):
        made(augmented(cls, {"positive": "phrases"})())


def test_sg_opts_copy_reads_changed_views() -> None:
    model = toys.encoder()
    inputs = toys.seeded(model.prepare(toys.TEXTS))
    method = SelfGuided(hidden=8)
    parts = method.parts(model)
    plain, changed = (method.embed(model, parts, inputs, layers=True, **given) for given in ({}, {"token_cutoff": 0.4}))
    assert plain.shape == changed.shape
    assert float((plain - changed).abs().max()) > 1e-3


def test_an_adversary_moves_vectors_more_than_noise_of_its_length() -> None:
    method = Views(positive=[{"name": "adversarial", "epsilon": 0.5}])
    step = common.make_step("infonce", method=method)
    model = step.bundle.model
    inputs = model.prepare(common.texts(12)).replace(seeds=np.arange(12, dtype=np.uint64))
    clean = model(inputs).detach()

    def moved(edit: Any) -> torch.Tensor:
        return 1 - torch.nn.functional.cosine_similarity(model(inputs, edit=edit).detach(), clean, dim=1)

    def noise(hidden: torch.Tensor, now: Any) -> torch.Tensor:
        drawn = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(4), dtype=hidden.dtype)
        return hidden + 0.5 * per_text(drawn, now)

    attacked = 1 - torch.nn.functional.cosine_similarity(
        method.embed(model, step.bundle.parts, inputs, adversarial=0.5).detach(), clean, dim=1
    )
    assert float((attacked > 2 * moved(noise)).double().mean()) > 0.9
    assert torch.equal(attacked, attacked.abs())


def test_an_adversary_compares_vectors_of_the_same_dropout_masks() -> None:
    step = common.make_step("infonce", method=Views(), config=common.model_config(0.3))
    model = step.bundle.model.double()
    inputs = model.prepare(common.texts(12)).replace(seeds=np.arange(12, dtype=np.uint64))
    seen: list[torch.Tensor] = []

    def embed(change: Any) -> torch.Tensor:
        vectors = model(inputs, edit=change)
        seen.append(vectors.detach())
        return vectors

    adversary(embed, inputs, 0.5, start=1e-9)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-7)
    assert not torch.allclose(seen[0], model(inputs).detach(), atol=1e-3)  # dropout is on


def test_dropout_rates_differ_by_view() -> None:
    rows = ROWS[:4]
    for rate, equal in ((0.0, True), (0.5, False)):
        method = Views(anchor={"name": "dropout", "rate": 0.0}, positive={"name": "dropout", "rate": rate})
        step = common.make_step("infonce", method=method, config=common.model_config(0.3))
        batch = common.step_batch(step, rows)
        outputs = {name: step.method.embed(step.bundle.model, step.bundle.parts, pool.inputs, **pool.settings)
                   for pool in batch.pools for name, _ in pool.names}  # fmt: skip
        if equal:
            assert len(batch.pools) == 1
        else:
            assert not torch.allclose(outputs["anchor"], outputs["positive"])
