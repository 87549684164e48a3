"""Places on the earth as waves of many lengths, which an encoder can tell near from far by."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from embedkit.errors import DataError

FINEST = 2e-3
"""The shortest wave, in radii of the earth: 13 km."""

REMEDY = "give latitude (-90 to 90), then longitude, in degrees"


def waves_of(places: Tensor, scales: int) -> Tensor:
    """Features (N, 6 scales + 3) of places (N, 2), latitude and longitude in degrees.

    The point on the unit sphere, and sines and cosines of its three coordinates at `scales` wave lengths, from the
    sphere's diameter down to `FINEST`: many scales as in Space2Vec (Mai et al. 2020, ICLR), on the sphere, so that
    there is no edge at the poles and at longitude 180.

    Examples
    --------
    >>> west, east = waves_of(torch.tensor([[10.0, -180.0], [10.0, 180.0]]), scales=4)
    >>> len(west), torch.allclose(west, east, atol=1e-3)
    (27, True)
    """
    latitude, longitude = torch.deg2rad(places).unbind(dim=1)
    level = latitude.cos()
    point = torch.stack([level * longitude.cos(), level * longitude.sin(), latitude.sin()], dim=1)
    steps = torch.arange(scales, device=places.device, dtype=places.dtype) / max(1, scales - 1)
    lengths = (2.0 * torch.exp(steps * math.log(FINEST / 2.0))).to(point)
    angles = (2 * math.pi * point[:, :, None] / lengths).flatten(1)  # (N, 3 scales)
    return torch.cat([point, angles.sin(), angles.cos()], dim=1)


def waves_width(scales: int) -> int:
    """How many features `waves_of` gives.

    Examples
    --------
    >>> waves_width(4)
    27
    """
    return 6 * scales + 3


def check_places(values: np.ndarray) -> None:
    """Refuse numbers (N, 2) that are no latitude and longitude in degrees.

    Raises
    ------
    DataError
        A latitude is beyond 90, or a longitude beyond 360.

    Examples
    --------
    >>> check_places(np.array([[48.1, 11.6]]))
    >>> check_places(np.array([[48.1, 11.6], [151.2, -33.9]]))
    Traceback (most recent call last):
    embedkit.errors.DataError: inputs: place 1 is 151.2, -33.9; give latitude (-90 to 90), then longitude, in degrees
    """
    bad = first_bad_place(values)
    if bad is not None:
        latitude, longitude = values[bad]
        raise DataError(f"place {bad} is {latitude:.6g}, {longitude:.6g}", where="inputs", remedy=REMEDY)


def first_bad_place(values: np.ndarray) -> int | None:
    """The first of some places (N, 2) that is none.

    Examples
    --------
    >>> first_bad_place(np.array([[48.1, 11.6], [151.2, -33.9]]))
    1
    """
    bad = np.flatnonzero((np.abs(values) > [90.0, 360.0]).any(axis=1))
    return int(bad[0]) if len(bad) else None
