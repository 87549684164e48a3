"""Vectors of earlier layers: the loss of sentence-transformers, and models that are cut after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.cli.app import main
from embedkit.config.recipe_io import load_recipe
from embedkit.data.builtin import tokenizer
from embedkit.errors import ModelError, RecipeError, UserError
from embedkit.formats import load
from embedkit.models import StaticEncoder
from embedkit.objectives import ObjectiveBatch, build
from embedkit.training import setup, train
from tests.helpers import tiny
from tests.methods import toys

OTHERS = ["a woman plays", "dogs", "three people running with a big dog in the green park", "a bird sings today"]
INFONCE = {"name": "infonce", "temperature": 0.05}


@pytest.fixture(scope="module")
def st() -> Any:
    """The library, and its losses."""
    pytest.importorskip("sentence_transformers")
    return pytest.importorskip("sentence_transformers.sentence_transformer.losses")


def both(folder: Path) -> tuple[Any, Any]:
    """One tiny encoder, ours and theirs, in float64 and training mode."""
    from sentence_transformers import SentenceTransformer

    toys.encoder("bert", pooling="mean", normalize=False).save(folder)
    return load(folder).double().train(), SentenceTransformer(str(folder), device="cpu").double().train()


def compared(config: dict[str, Any], ours: Any, theirs: Any, peer: Any) -> None:
    """Loss and gradients of all weights are those of the peer, within 1e-9."""
    ours.train_layers(embedding_layer=True)
    z = {name: ours(ours.prepare(texts)) for name, texts in (("anchor", toys.TEXTS), ("positive", OTHERS))}
    found = build(config, dim=32)(z, ObjectiveBatch.of(z)).loss
    wanted = peer([dict(theirs.preprocess(texts)) for texts in (toys.TEXTS, OTHERS)], None)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
    found.backward()
    wanted.backward()
    known = {name: p.grad for name, p in theirs.transformers_model.named_parameters() if p.grad is not None}
    assert known
    for name, p in ours.encoder.named_parameters():
        if name in known:
            torch.testing.assert_close(p.grad, known[name], rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("weighting", ["uniform", "log", "linear"])
def test_adaptive_layers_are_those_of_sentence_transformers(tmp_path: Path, st: Any, weighting: str) -> None:
    """Theirs counts the embedding layer's output as the first layer."""
    ours, theirs = both(tmp_path / "model")
    inner = st.MultipleNegativesRankingLoss(theirs, scale=20.0)
    peer = st.AdaptiveLayerLoss(theirs, inner, n_layers_per_step=-1, last_layer_weight=0.7, prior_layers_weight=1.3,
                                kl_div_weight=0.4, kl_temperature=0.6, layer_weighting=weighting)  # fmt: skip
    config = {"name": "adaptive-layers", "objective": INFONCE, "per_step": None, "last": 0.7, "earlier": 1.3,
              "kl": 0.4, "temperature": 0.6, "weighting": weighting, "embedding_layer": True}  # fmt: skip
    compared(config, ours, theirs, peer)


def test_matryoshka_2d_is_that_of_sentence_transformers(tmp_path: Path, st: Any) -> None:
    ours, theirs = both(tmp_path / "model")
    inner = st.MultipleNegativesRankingLoss(theirs, scale=20.0)
    peer = st.Matryoshka2dLoss(theirs, inner, [32, 16], n_layers_per_step=-1, n_dims_per_step=-1)
    prefixes = {"name": "matryoshka", "objective": INFONCE, "dims": [32, 16]}
    config = {"name": "adaptive-layers", "objective": prefixes, "per_step": None, "embedding_layer": True}
    compared(config, ours, theirs, peer)


def test_layers_and_sizes_of_a_step_are_drawn_evenly_and_alike_everywhere() -> None:
    prefixes = {"name": "matryoshka", "objective": INFONCE, "dims": [8, 4, 2], "per_step": 2}
    objective = build({"name": "adaptive-layers", "objective": prefixes, "per_step": 2}, dim=8)
    z = {"anchor": torch.zeros(2, 40), "positive": torch.zeros(2, 40)}
    batches = [ObjectiveBatch.of(z, step=step, seed=3) for step in range(300)]
    layers = [objective.chosen(4, batch) for batch in batches]
    sizes = [objective.inner[0].chosen(batch) for batch in batches]
    for draws, count in ((layers, 4), (sizes, 3)):
        assert all(len(set(draw)) == 2 and draw == sorted(draw) for draw in draws)
        shares = np.bincount(np.concatenate(draws), minlength=count) / 600
        assert np.abs(shares - 1 / count).max() < 0.05
    assert layers == [objective.chosen(4, ObjectiveBatch.of(z, step=step, seed=3)) for step in range(300)]
    assert layers != [objective.chosen(4, ObjectiveBatch.of(z, step=step, seed=4)) for step in range(300)]


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mpnet"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_model_that_is_cut_gives_the_vectors_that_were_trained(tmp_path: Path, family: str, pooling: str) -> None:
    model = toys.encoder(family, pooling=pooling, normalize=False)
    whole = model.eval().encode(toys.TEXTS)
    model.train().train_layers()
    one, two = model(model.prepare(toys.TEXTS)).detach().numpy().reshape(4, 2, 32).transpose(1, 0, 2)
    np.testing.assert_allclose(two, whole, atol=1e-6)
    short = model.eval().with_layers(1)
    np.testing.assert_allclose(short.encode(toys.TEXTS), one, atol=1e-6)
    np.testing.assert_array_equal(model.encode(toys.TEXTS, layers=1), short.encode(toys.TEXTS))
    np.testing.assert_array_equal(model.encode(toys.TEXTS), whole)  # the model itself is as it was
    short.save(tmp_path / "short")
    again = load(tmp_path / "short")
    assert again.encoder.config.num_hidden_layers == 1
    np.testing.assert_allclose(again.encode(toys.TEXTS), one, atol=1e-5)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (again, model)]
    assert sizes[0] < sizes[1]


def test_train_then_cut_then_use_in_sentence_transformers(tmp_path: Path) -> None:
    st = pytest.importorskip("sentence_transformers")
    result = train("matryoshka-2d", output=tmp_path / "run", smoke=True)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--layers", "1"]) == 0
    theirs = st.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert len(theirs.transformers_model.encoder.layer) == 1
    ours = load(result.output, layers=1)
    texts = ["a red house", "the dog sleeps near the river"]
    np.testing.assert_allclose(theirs.encode(texts), ours.encode(texts), atol=1e-5)
    assert not np.allclose(ours.encode(texts), load(result.output).encode(texts), atol=1e-3)


def test_what_cannot_be_cut_or_trained_so_is_refused() -> None:
    with pytest.raises(ModelError, match="3 layers of 2; give 1 to 2"):
        toys.encoder().with_layers(3)
    with pytest.raises(ModelError, match="a modernbert encoder cannot be cut to fewer layers"):
        tiny.text_encoder("modernbert").with_layers(1)
    with pytest.raises(ModelError, match="layers: a static model has no layers to cut"):
        StaticEncoder(tokenizer(), dim=8).encode("a dog", layers=1)
    with pytest.raises(ModelError, match="pooling 'first-last' does not read the last layer alone"):
        tiny.text_encoder("bert", pooling="first-last").train_layers()
    adaptive = {"name": "adaptive-layers", "objective": "infonce"}
    with pytest.raises(RecipeError, match="the method changes the model's vectors"):
        setup.check(load_recipe("diffcse", {"objective": adaptive}, smoke=True))
    beside = {"name": "sum", "terms": [{"objective": adaptive}, {"name": "infonce"}]}
    with pytest.raises(UserError, match="other objectives would read the vectors of all layers too"):
        setup.check(load_recipe("pairs", {"objective": beside}, smoke=True))
    with pytest.raises(RecipeError, match="keeps state between steps"):
        build({"name": "adaptive-layers", "objective": {"name": "moco", "size": 8}}, dim=4)
    z = {"anchor": torch.zeros(2, 7), "positive": torch.zeros(2, 7)}
    with pytest.raises(RecipeError, match="size"):
        build({**adaptive, "size": 4})(z, ObjectiveBatch.of(z))
