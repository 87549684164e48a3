"""CSR against its formulas, with loops in float64; dead latents; what a trained folder gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedkit
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import ModelError
from embedkit.methods.csr import CSR
from embedkit.models.heads.sparse_code import SparseCode, largest, sparse_code_of
from embedkit.training import train
from tests.methods import toys

D, H = 6, 24


def coded(method: CSR) -> tuple[Any, Any]:
    """A tiny encoder with a linear layer to six numbers and a code of 24, parameters off their start."""
    from embedkit.models.heads.layers import Dense

    model = toys.encoder("bert", pooling="mean")
    model.dense.append(Dense(model.hidden_size, D, "identity").double())
    method.adapt(model)
    layer = sparse_code_of(model.double())
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model, layer


def top(values: np.ndarray, k: int) -> np.ndarray:
    """ReLU(TopK) of one row."""
    out = np.zeros_like(values)
    for place in np.argsort(-values)[:k]:
        out[place] = max(values[place], 0.0)
    return out


def test_the_losses_are_those_of_the_formulas() -> None:
    method = CSR(k=2, k_aux=3, wide=0.2, dead=0.7, dead_after=4)
    model, layer = coded(method)
    layer.stats_last_nonzero[:9] = 5  # nine dead latents
    inputs = model.prepare(toys.TEXTS)
    outputs = {"anchor": method.embed(model, torch.nn.ModuleDict(), inputs)}
    batch = toys.batch(outputs, len(toys.TEXTS))
    codes = method.project(outputs, batch, torch.nn.ModuleDict())
    terms = method.terms(outputs, codes, batch, torch.nn.ModuleDict())

    with layer.aside(), torch.no_grad():
        x = model.eval()(inputs).numpy()
    w, b_pre, b = (z.detach().numpy() for z in (layer.weight, layer.pre_bias, layer.latent_bias))
    near, wide, aux, target = [], [], [], []
    for row, vector in enumerate(x):
        p = w @ (vector - b_pre) + b
        z2, z8 = top(p, 2), top(p, 8)
        dead = top(np.where(np.arange(H) < 9, p, 0.0), 3)
        assert np.allclose(codes["anchor"][row].detach().numpy(), z2)
        near.append(np.mean((vector - (w.T @ z2 + b_pre)) ** 2))
        wide.append(np.mean((vector - (w.T @ z8 + b_pre)) ** 2))
        aux.append(w.T @ dead + b_pre)
        target.append(vector - (w.T @ z2 + b_pre) + b_pre)
    spread = np.mean((np.array(target) - np.mean(target, axis=0)) ** 2)
    assert float(terms["rebuilt"].detach()) == pytest.approx(np.mean(near), rel=1e-9)
    assert float(terms["rebuilt_wide"].detach()) == pytest.approx(0.2 * np.mean(wide), rel=1e-9)
    ratio = np.mean((np.array(aux) - np.array(target)) ** 2) / spread
    assert float(terms["rebuilt_dead"].detach()) == pytest.approx(0.7 * ratio, rel=1e-9)
    assert torch.equal(codes["anchor"], codes["positive"]) and torch.equal(batch.keys["anchor"], batch.keys["positive"])


def test_a_frozen_encoder_gets_no_gradient_and_a_trained_one_does() -> None:
    for train_encoder in (False, True):
        method = CSR(k=2, k_aux=3, train_encoder=train_encoder)
        model, layer = coded(method)
        outputs = {"anchor": method.embed(model, torch.nn.ModuleDict(), model.prepare(toys.TEXTS))}
        terms = method.terms(outputs, {}, toys.batch(outputs, 4), torch.nn.ModuleDict())
        torch.stack(list(terms.values())).sum().backward()
        with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        assert {"dense.1.pre_bias", "dense.1.latent_bias", "dense.1.decoder.linear.weight"} <= with_gradient
        assert any(name.startswith("encoder.") for name in with_gradient) is train_encoder
        assert model.training and layer.runs(training=True)


def test_a_step_counts_once_whatever_the_views_and_an_active_latent_is_alive() -> None:
    method = CSR(k=2)
    model, layer = coded(method)
    layer.stats_last_nonzero.fill_(7)
    code = torch.zeros(4, H + 2 + 2 * D, dtype=torch.float64)
    code[1, 5], code[2, 6] = 0.5, 1e-6  # the second is below what counts
    method.after_step({"anchor": code, "positive": code}, {}, toys.batch({}, 4), model, torch.nn.ModuleDict())
    assert layer.stats_last_nonzero.tolist() == [8] * 5 + [0] + [8] * 18


def test_an_orthonormal_code_of_all_latents_rebuilds_the_vector() -> None:
    layer = SparseCode(4, 8, k=8).double()
    with torch.no_grad():
        layer.decoder["linear"].weight.copy_(torch.cat([torch.eye(4), -torch.eye(4)]))  # both signs survive the ReLU
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(layer.rebuild(layer(x)), x)
    assert int((largest(x, 2) != 0).sum(dim=1).max()) <= 2


def test_vectors_of_training_only_are_refused_for_a_trained_encoder() -> None:
    from embedkit.models.heads.layers import Dense

    model = toys.encoder("bert")
    model.dense.append(Dense(model.hidden_size, D, train_only=True))
    with pytest.raises(ModelError, match="layers of training only"):
        CSR(train_encoder=True).adapt(model)
    CSR().adapt(model)
    with pytest.raises(ModelError, match="latents"):
        CSR(expansion=2).adapt(model)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of the smoke run, from pairs."""
    folder = tmp_path_factory.mktemp("csr") / "run"
    pairs = ["data.train=[{path: 'builtin:pairs-train', limit: 128}]", f"train.output={folder}"]
    train(load_recipe("csr", [*pairs, "train.max_steps=3"], smoke=True))
    return next(folder.rglob("modules.json")).parent


def test_a_trained_folder_gives_codes_here_and_in_sentence_transformers(trained: Path, tmp_path: Path) -> None:
    from sentence_transformers import SparseEncoder

    model = embedkit.load(trained)
    codes = model.encode(toys.TEXTS)
    assert codes.shape == (4, 128) and int((codes != 0).sum(axis=1).max()) <= 4 and float(codes.min()) >= 0
    theirs = SparseEncoder(str(embedkit.export(model, tmp_path / "st", "sentence-transformers")), device="cpu")
    assert np.allclose(theirs.encode(toys.TEXTS).to_dense().numpy(), codes, atol=1e-6)
    theirs.save(str(tmp_path / "back"))
    assert np.array_equal(embedkit.load(tmp_path / "back").encode(toys.TEXTS), codes)
    layer = sparse_code_of(model)
    assert layer is not None and int(layer.stats_last_nonzero.max()) == 3  # counted in training, kept in the folder
