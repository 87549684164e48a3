"""Encoders of vectors: what they start as, what they learn from the rows, and that folders keep all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import embedkit
from embedkit.data.vectors.values import Vectors
from embedkit.errors import DataError, ModelError, NonFiniteError, UserError
from embedkit.models import FeatureEncoder, encode_file
from embedkit.models.augment.counter_rng import seeds_of

X = (np.random.default_rng(0).standard_normal((50, 6)) * [1, 2, 3, 4, 5, 0] + [9, 8, 7, 6, 5, 4]).astype(np.float32)


def _outputs(model: FeatureEncoder, x: np.ndarray) -> np.ndarray:
    return np.asarray(model.encode(x, normalize=False), np.float64)


def test_starts() -> None:
    assert np.array_equal(_outputs(FeatureEncoder(6, dim=4), X), X[:, :4])
    assert np.array_equal(_outputs(FeatureEncoder(6, form="residual", hidden=9), X), X)
    assert np.array_equal(_outputs(FeatureEncoder(6, dim=4, form="residual"), X), X[:, :4])
    weight = FeatureEncoder(6, dim=4, start="orthogonal").linear.weight  # type: ignore[union-attr]
    assert torch.allclose(weight @ weight.T, torch.eye(4), atol=1e-6)
    assert _outputs(FeatureEncoder(6, dim=3, form="mlp", depth=2, hidden=5), X).shape == (50, 3)


def test_more_principal_axes_than_numbers_are_refused_before_the_rows_are_read() -> None:
    for form in ("linear", "residual"):
        with pytest.raises(
            ModelError, match=r"model.feature.dim: it is 7, .* 6 numbers .*; give 6 at most, or another start"
        ):
            FeatureEncoder(6, dim=7, form=form, start="pca")  # type: ignore[arg-type]
    assert FeatureEncoder(6, dim=6, start="pca").dim == 6


@pytest.mark.parametrize("size", [50, 7])
def test_scaling_and_principal_axes_are_those_of_all_rows(size: int) -> None:
    wide = X.astype(np.float64)
    blocks = [X[i : i + size] for i in range(0, 50, size)]
    model = FeatureEncoder(6, scaling="standard").double()
    assert model.learns_inputs
    model.learn_inputs(blocks)
    assert not model.learns_inputs and int(model.count) == 50
    deviation = wide.std(axis=0)
    deviation[5] = 1.0
    out = model(model.prepare(X)).detach().numpy()
    assert np.allclose(out, (wide - wide.mean(axis=0)) / deviation, atol=1e-9)
    axes = FeatureEncoder(6, dim=2, scaling="center", start="pca").double()
    axes.learn_inputs(blocks)
    out = axes(axes.prepare(X)).detach().numpy()
    centred = wide - wide.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(np.abs(out), np.abs(u[:, :2] * s[:2]), atol=1e-8)


def test_inputs_of_encode() -> None:
    model = FeatureEncoder(6, dim=4)
    whole = model.encode(X)
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    for inputs in (X.astype(np.float64), list(X), X.tolist(), torch.from_numpy(X), Vectors(X)):
        assert np.array_equal(model.encode(inputs), whole)
    assert np.array_equal(model.encode(X[3]), whole[3]) and model.encode(X, truncate_dim=2).shape == (50, 2)
    assert np.array_equal(model.encode(X, batch_size=7), whole)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["a text"], "a feature model reads vectors, and input 0 is str 'a text'"),
        (np.ones((2, 5)), "the vectors have 5 numbers, the model reads 6"),
        ([np.ones(6), np.ones(5)], r"vectors of the shapes \(5,\) and \(6,\)"),
        (np.ones((2, 2, 6)), r"inputs are float64 \(2, 2, 6\)"),
    ],
)
def test_other_inputs_are_refused(inputs: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        FeatureEncoder(6).encode(inputs)


def test_views_are_drawn_from_seeds_in_any_chunk() -> None:
    model = FeatureEncoder(6)
    inputs = model.prepare(X).replace(seeds=seeds_of((1,), "anchor", np.arange(50), np.zeros(50, np.int64)))
    for settings in ({"noise": 0.5}, {"element_cutoff": 0.3}):
        whole = model(inputs, **settings)
        parts = torch.cat(
            [model(inputs.select(slice(0, 9)), **settings), model(inputs.select(slice(9, 50)), **settings)]
        )
        assert torch.equal(whole, parts) and not torch.equal(whole, model(inputs))
    noise = (model(inputs, noise=0.5) - model(inputs)).detach().numpy()
    assert abs(noise.std() - 0.5) < 0.05 and abs(noise.mean()) < 0.1
    zeros = (model(inputs, element_cutoff=0.3) == 0).float().mean().item()
    assert 0.2 < zeros < 0.4
    with pytest.raises(UserError, match="has no token_cutoff"):
        model(inputs, token_cutoff=0.1)


def test_folders_keep_all(tmp_path: Path) -> None:
    model = FeatureEncoder(6, dim=3, form="residual", hidden=5, start="orthogonal", scaling="standard", normalize=False)
    model.learn_inputs([X])
    loaded = embedkit.load(model.save(tmp_path / "m"))
    assert isinstance(loaded, FeatureEncoder) and loaded.hash() == model.hash() and not loaded.learns_inputs
    assert np.array_equal(loaded.encode(X), model.encode(X))
    (tmp_path / "m" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError):
        embedkit.load(tmp_path / "m")


def test_files_are_encoded(tmp_path: Path) -> None:
    from embedkit.models import encode_file

    model = FeatureEncoder(6, dim=3)
    np.save(tmp_path / "x.npy", X)
    encode_file(model, tmp_path / "x.npy", tmp_path / "out.npy", block_rows=16)
    assert np.array_equal(np.load(tmp_path / "out.npy"), model.encode(X))
    np.savez(tmp_path / "x.npz", id=np.arange(50), vector=X)
    encode_file(model, tmp_path / "x.npz", tmp_path / "ids.npy")
    assert len((tmp_path / "ids.ids.jsonl").read_text().split()) == 50


def test_a_bad_row_of_a_file_that_is_encoded_is_told_without_a_setting_of_training(tmp_path: Path) -> None:
    x = X.copy()
    x[17, 3] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(
        DataError, match=r"x.npy:18, column x: number 3 of the vector is nan; fix .*, or take it out of the file"
    ):
        encode_file(FeatureEncoder(6), tmp_path / "x.npy", tmp_path / "out.npy")
    with pytest.raises(NonFiniteError, match=r"inputs\[17\]: the vector has NaN or infinite values; so has this input"):
        FeatureEncoder(6).encode(x)
    broken = FeatureEncoder(6)
    torch.nn.init.constant_(broken.linear.weight, float("nan"))  # type: ignore[union-attr]
    with pytest.raises(NonFiniteError, match=r"inputs\[0\]: .*; check the weights"):
        broken.encode(X)
