"""Deep embedded clustering and SCCL: the loss from its formula, the start of the centres, what the contrast sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import embedkit
from embedkit.config.recipe import ModelConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.data.builtin.shapes import draw
from embedkit.data.images.pictures import load_picture
from embedkit.errors import ModelError, RecipeError
from embedkit.factory import build
from embedkit.methods import methods
from embedkit.methods.common.auxiliary import Auxiliary, WithAuxiliaries
from embedkit.methods.dec import DeepClusters
from embedkit.methods.sccl import SCCL
from embedkit.methods.simcse import SimCSEUnsupervised
from embedkit.mining.labels.kmeans import centres_of
from embedkit.training import setup
from tests.methods import toys
from tests.training import common, runs


def naive(z: np.ndarray, centres: np.ndarray, alpha: float) -> float:
    """Section 3.1 of Xie et al. 2016, with loops."""
    q = np.array([[(1 + ((a - c) ** 2).sum() / alpha) ** (-(alpha + 1) / 2) for c in centres] for a in z])
    q /= q.sum(1, keepdims=True)
    p = q**2 / q.sum(0)
    p /= p.sum(1, keepdims=True)
    return float(sum(p[i, j] * np.log(p[i, j] / q[i, j]) for i in range(len(z)) for j in range(len(centres))) / len(z))


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_the_loss_is_that_of_the_formula_and_the_target_has_no_gradient(alpha: float) -> None:
    random = np.random.default_rng(5)
    points, centres = random.normal(size=(7, 4)), random.normal(size=(3, 4))
    method = DeepClusters(3, alpha)
    parts = method.parts(build(common.model_config(), 0))
    weight = torch.tensor(centres, requires_grad=True)
    parts["centres"].weight = torch.nn.Parameter(weight)
    z = {"anchor": torch.tensor(points, requires_grad=True)}
    loss = method.terms(z, {}, toys.batch(z, 7), parts)["clusters"]
    assert float(loss) == pytest.approx(naive(points, centres, alpha), rel=1e-10)
    shares = [method.terms(z, {}, toys.batch(z, 7, rows), parts)["clusters"] for rows in (slice(0, 2), slice(2, 7))]
    assert float(sum(shares)) == pytest.approx(float(loss), rel=1e-12)
    loss.backward()
    q = np.array([[(1 + ((a - c) ** 2).sum() / alpha) ** (-(alpha + 1) / 2) for c in centres] for a in points])
    q /= q.sum(1, keepdims=True)
    p = q**2 / q.sum(0)
    p /= p.sum(1, keepdims=True)
    closed = [  # equation 4: no gradient goes through p
        (alpha + 1) / alpha * sum((p[i, j] - q[i, j]) * (points[i] - c) / (1 + ((points[i] - c) ** 2).sum() / alpha)
                                  for j, c in enumerate(centres)) / 7 for i in range(7)
    ]  # fmt: skip
    assert np.allclose(z["anchor"].grad, closed, rtol=1e-8)


def test_centres_start_as_those_of_k_means() -> None:
    model = build(common.model_config(), 0).eval()
    method = DeepClusters(2)
    parts = method.parts(model)
    rows = [{"anchor": text} for text in ["a red cat", "a red cat near", "the old river", "the old river song"]]
    method.learn_start(model, parts, rows)
    z = model.encode([row["anchor"] for row in rows], normalize=False).astype(np.float64)
    best = min(  # of all ways to part four vectors in two sets
        (sum(((z[s] - z[s].mean(0)) ** 2).sum() for s in sets), [z[s].mean(0) for s in sets])
        for sets in ([[0], [1, 2, 3]], [[1], [0, 2, 3]], [[2], [0, 1, 3]], [[3], [0, 1, 2]], [[0, 1], [2, 3]],
                     [[0, 2], [1, 3]], [[0, 3], [1, 2]])
    )[1]  # fmt: skip
    found = sorted(parts["centres"].weight.tolist())
    assert np.allclose(found, sorted(np.asarray(centre).tolist() for centre in best), atol=1e-5)


def test_the_contrast_sees_projected_vectors_and_the_clusters_those_of_the_encoder() -> None:
    method, model = SCCL(clusters=3, size=5), build(common.model_config(), 0)
    parts = method.parts(model)
    z = {name: torch.randn(4, model.training_dim) for name in ("anchor", "positive")}
    batch = toys.batch(z, 4)
    projected = method.project(z, batch, parts)
    assert {name: tuple(x.shape) for name, x in projected.items()} == {"anchor": (4, 5), "positive": (4, 5)}
    found = float(method.terms(z, projected, batch, parts)["clusters"])
    centres = parts["centres"].weight.detach().double().numpy()
    assert found == pytest.approx(0.5 * naive(z["anchor"].double().numpy(), centres, 1.0), rel=1e-4)


def test_a_run_starts_from_k_means_of_its_rows_and_says_so(tmp_path: Path) -> None:
    from tests.training.test_stored_losses import of_recipe

    recorder = runs.Recorder()
    given = {"name": "tiny", "seed": 7, **of_recipe("sccl"), "train": {"max_steps": 1, "batch_size": 8, "lr": 1e-9}}
    result = runs.run(tmp_path, given, progress=recorder)
    assert "the parts of the method start from 256 rows" in recorder.lines
    recipe = load_recipe(given)
    rows = [row for batch in setup.open_rows(recipe, setup.build_method(recipe)).batches(0) for row in batch.rows]
    vectors = embedkit.load(result.output).encode([row["anchor"] for row in rows], normalize=False)
    assert torch.allclose(runs.checkpoint(tmp_path, 1)["parts.centres.weight"].double(),
                          torch.from_numpy(centres_of(vectors, 3)), atol=1e-4)  # fmt: skip


def test_what_does_not_fit_is_refused() -> None:
    tanh = common.model_config(head={"kind": "tanh", "train_only": True})
    assert isinstance(tanh, ModelConfig)
    with pytest.raises(ModelError, match="outside of training only"):
        DeepClusters(2).adapt(build(tanh, 0))
    beside = WithAuxiliaries(SimCSEUnsupervised(), [Auxiliary(DeepClusters(2, view="third"), "dec", "auxiliary.0")])
    with pytest.raises(RecipeError, match="no view 'third'"):
        beside.outline([{"anchor": "a cat"}], np.random.default_rng)
    picture = load_picture(draw((0, 0, 1, 0, 0)))
    images = WithAuxiliaries(methods["simclr"](), [Auxiliary(DeepClusters(2), "dec", "auxiliary.0")])
    with pytest.raises(RecipeError, match="found among texts that are anchors, and these are images"):
        images.outline([{"image": picture}], np.random.default_rng)
