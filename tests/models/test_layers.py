"""Layers on a pooled vector against torch and numpy, and how a model runs them in and out of training."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from embedkit.errors import ModelError, UserError
from embedkit.models.heads.layers import ACTIVATIONS, Cut, Dense, Layer, LayerNorm, UnitLength, layers, new_layer
from embedkit.models.heads.sparse_code import SparseCode
from tests.helpers import tiny

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
FORMULAS: dict[str, Any] = {
    "identity": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "leakyrelu": lambda x: np.where(x > 0, x, 0.01 * x),
    "hardtanh": lambda x: np.clip(x, -1, 1),
    "tanhshrink": lambda x: x - np.tanh(x),
    "logsigmoid": lambda x: -np.log1p(np.exp(-x)),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_is_its_formula(name: str, bias: bool) -> None:
    layer = Dense(6, 4, name, bias=bias)
    weight = layer.linear.weight.detach().numpy()
    shift = layer.linear.bias.detach().numpy() if bias else 0.0
    expected = FORMULAS[name](X.numpy() @ weight.T + shift)
    np.testing.assert_allclose(layer(X).detach().numpy(), expected, atol=1e-5)


def test_every_activation_keeps_the_shape_and_has_no_parameters() -> None:
    for name, kind in ACTIVATIONS.items():
        function = kind()
        assert function(X).shape == X.shape, name
        assert not list(function.parameters()), name
        assert name == kind.__name__.lower()


def test_a_norm_behind_the_activation() -> None:
    layer = Dense(6, 4, "relu", norm=1e-3)
    inner = np.maximum(X.numpy() @ layer.linear.weight.detach().numpy().T + layer.linear.bias.detach().numpy(), 0)
    expected = (inner - inner.mean(1, keepdims=True)) / np.sqrt(inner.var(1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(layer(X).detach().numpy(), expected, atol=1e-5)
    assert layer.spec()["norm"] == 1e-3


def test_unit_length_and_layer_norm() -> None:
    expected = X.numpy() / np.linalg.norm(X.numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(UnitLength()(X).numpy(), expected, atol=1e-6)
    assert UnitLength()(torch.zeros(1, 6)).tolist() == [[0.0] * 6]
    layer = LayerNorm(6)
    nn.init.uniform_(layer.norm.weight)
    nn.init.uniform_(layer.norm.bias)
    centred = X.numpy() - X.numpy().mean(1, keepdims=True)
    unit = centred / np.sqrt(X.numpy().var(1, keepdims=True) + 1e-5)
    expected = unit * layer.norm.weight.detach().numpy() + layer.norm.bias.detach().numpy()
    np.testing.assert_allclose(layer(X).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("dim", "size"), [(1, 1), (4, 4), (6, 6), (9, 6)])
def test_a_cut_keeps_the_first_coordinates(dim: int, size: int) -> None:
    layer = Cut(dim)
    assert layer.size(6) == size
    torch.testing.assert_close(layer(X), X[:, :size])


# --- settings --------------------------------------------------------------------------------------------------------

MADE: dict[str, Layer] = {
    "dense": Dense(6, 4, "gelu"),
    "dense-plain": Dense(6, 4, "identity", bias=False, train_only=True),
    "dense-norm": Dense(6, 4, norm=1e-5),
    "unit-length": UnitLength(),
    "layer-norm": LayerNorm(6),
    "cut": Cut(3),
    "sparse-code": SparseCode(6, 8, 2),
}


@pytest.mark.parametrize("name", MADE)
def test_a_layer_is_made_again_from_its_spec(name: str) -> None:
    layer = MADE[name]
    again = new_layer(json.loads(json.dumps(layer.spec())))
    assert type(again) is type(layer)
    assert again.spec() == layer.spec()
    assert again.train_only == layer.train_only
    again.load_state_dict(layer.state_dict())
    torch.testing.assert_close(again(X), layer(X), rtol=0, atol=0)
    assert again(X).shape[1] == layer.size(6)


def test_a_spec_without_a_kind_is_dense_and_others_are_named() -> None:
    assert isinstance(new_layer({"inputs": 6, "outputs": 2}), Dense)
    with pytest.raises(UserError, match="unknown layer 'layernorm'; did you mean 'layer-norm'"):
        new_layer({"kind": "layernorm", "dim": 3})
    assert set(layers) == {layer.spec().get("kind", "dense") for layer in MADE.values()}


@pytest.mark.parametrize(
    "spec",
    [{"inputs": 6, "outputs": 2}, {"kind": "unit-length"}, {"kind": "layer-norm", "dim": 6}, {"kind": "cut", "dim": 3}],
)
@pytest.mark.parametrize("train_only", [None, False, True])
def test_a_layer_is_used_always_unless_its_spec_says_otherwise(spec: dict[str, Any], train_only: bool | None) -> None:
    layer = new_layer(spec if train_only is None else {**spec, "train_only": train_only})
    assert layer.train_only is bool(train_only)
    assert layer.runs(training=False) is not bool(train_only)


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(ModelError, match="unknown activation 'tanhh'; did you mean 'tanh'"):
        Dense(6, 4, "tanhh")


def test_a_layer_that_does_not_say_its_settings_cannot_be_saved() -> None:
    class Own(Layer):
        """A layer without `spec`."""

    with pytest.raises(TypeError, match="Own does not define spec"):
        Own().spec()


# --- in and out of training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "in_training", "in_use"),
    [(Dense(6, 4), True, True), (Dense(6, 4, train_only=True), True, False), (Cut(3), False, True)],
)
def test_when_a_layer_runs(layer: Layer, in_training: bool, in_use: bool) -> None:
    assert (layer.runs(training=True), layer.runs(training=False)) == (in_training, in_use)


def test_a_layer_of_training_can_be_used_always_with_its_weights_shared() -> None:
    own = Dense(6, 4, train_only=True)
    always = own.always()
    assert (always.runs(False), own.runs(False)) == (True, False)
    assert always.linear.weight is own.linear.weight


def test_a_model_runs_its_layers_in_order_by_mode() -> None:
    head, kept, cut = Dense(32, 12, train_only=True), Dense(32, 16), Cut(8)
    model = tiny.text_encoder(dense=[kept, cut], normalize=False)
    pooled = model.pooled(model.prepare(["the dog"]))
    torch.testing.assert_close(model.project(pooled), kept(pooled)[:, :8])
    assert (model.dim, model.training_dim) == (8, 16)
    model.train()
    torch.testing.assert_close(model.project(pooled), kept(pooled))
    other = tiny.text_encoder(dense=[head], normalize=False)
    assert (other.dim, other.training_dim) == (32, 12)
    torch.testing.assert_close(other.project(pooled), pooled)
    other.train()
    torch.testing.assert_close(other.project(pooled), head(pooled))
