"""Places as waves: no edge on the sphere, near and far, bad places, folders, and a recipe that learns them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import embedkit
from embedkit.errors import DataError, ModelError
from embedkit.models import FeatureEncoder
from embedkit.models.vectors.places import FINEST, waves_of


def test_waves_are_those_of_the_formula() -> None:
    found = waves_of(torch.tensor([[48.0, 11.5]], dtype=torch.float64), scales=3)[0].tolist()
    phi, lam = math.radians(48.0), math.radians(11.5)
    point = [math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam), math.sin(phi)]
    lengths = [2.0, math.sqrt(2.0 * FINEST), FINEST]
    angles = [2 * math.pi * value / length for value in point for length in lengths]
    wanted = [*point, *(math.sin(a) for a in angles), *(math.cos(a) for a in angles)]
    assert np.allclose(found, wanted, atol=1e-5)


def test_the_sphere_has_no_edge_and_near_is_near() -> None:
    def waves(*places: tuple[float, float]) -> torch.Tensor:
        return waves_of(torch.tensor(places, dtype=torch.float64), scales=8)

    assert torch.allclose(*waves((10.0, 180.0), (10.0, -180.0)), atol=1e-9)
    assert torch.allclose(*waves((90.0, 20.0), (90.0, -130.0)), atol=1e-9)
    home, *others = waves((48.1, 11.5), (48.1, 11.5001), (48.3, 11.5), (52.0, 13.0), (-34.0, 151.0))
    gaps = [float((other - home).norm()) for other in others]
    assert gaps[0] < min(gaps[1:]) and gaps[0] < 0.2


def test_folders_keep_waves_and_bad_places_are_told(tmp_path: Path) -> None:
    model = FeatureEncoder(2, dim=5, form="mlp", hidden=8, waves=4)
    places = np.array([[48.1, 11.5], [-33.9, 151.2]])
    again = embedkit.load(model.save(tmp_path / "places"))
    assert np.array_equal(again.encode(places), model.encode(places)) and again.encode(places[0]).shape == (5,)
    with pytest.raises(DataError, match=r"place 1 is 151\.2, -33\.9; give latitude"):
        model.encode(places[:, ::-1] * [[0.5, 1.0], [1.0, 1.0]])
    for settings in ({"width": 3}, {"width": 2, "scaling": "center"}, {"width": 2, "start": "pca"}):
        with pytest.raises(ModelError, match="latitude and longitude"):
            FeatureEncoder(**settings, waves=4)  # type: ignore[arg-type]


def test_pictures_find_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from embedkit.config.recipe_io import load_recipe

    settings = ["train.max_steps=60", "train.output=run", "train.lr=0.003", "train.batch_size=64", "train.log_every=60"]
    result = embedkit.train(load_recipe("csp", settings, smoke=True))
    assert result.losses[0] > 3.5 and result.losses[-1] < result.losses[0] - 1.0
