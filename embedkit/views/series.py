"""Views of sequences of vectors, and of vectors: steps left out, crops, other speeds, orders, columns, mixtures."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from embedkit.config.settings import Count, Positive, Rate, Share
from embedkit.errors import RecipeError
from embedkit.views.base import Step, views
from embedkit.views.mixing import beta_share

Speed = Annotated[float, Field(gt=0, le=100)]


@views.add("step-dropout")
def step_dropout(rate: Rate = 0.2) -> Step:
    """Leave out each step with probability `rate`; one stays at least.

    Examples
    --------
    >>> step_dropout(0.5).change(np.arange(6.0)[:, None], np.random.default_rng(0))[:, 0].tolist()
    [0.0, 4.0, 5.0]
    """

    def change(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        draws = random.random(len(x))
        stay = draws >= rate
        return x[stay] if stay.any() else x[[int(draws.argmax())]]

    return Step(change=change, axes=2)


@views.add("time-crop")
def time_crop(least: Share = 0.5, most: Share = 1.0) -> Step:
    """A run of steps: of a share of all that is drawn between `least` and `most` (CoLES, Babaev et al. 2022).

    Examples
    --------
    >>> time_crop(0.5, 0.5).change(np.arange(6.0)[:, None], np.random.default_rng(0))[:, 0].tolist()
    [2.0, 3.0, 4.0]
    """
    _check_range(least, most)

    def change(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        steps = max(1, round(len(x) * float(random.uniform(least, most))))
        start = int(random.integers(len(x) - steps + 1))
        return x[start : start + steps]

    return Step(change=change, axes=2)


@views.add("resample")
def resample(least: Speed = 0.8, most: Speed = 1.25) -> Step:
    """Another number of steps, by a factor between `least` and `most`, interpolated linearly.

    Examples
    --------
    >>> resample(2.0, 2.0).change(np.array([[0.0], [3.0]]), np.random.default_rng(0))[:, 0].tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    _check_range(least, most)

    def change(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return interpolated(x, max(1, round(len(x) * float(random.uniform(least, most)))))

    return Step(change=change, axes=2)


@views.add("permutation")
def permutation(parts: Count = 4) -> Step:
    """Cut into `parts` runs of steps, which are put in a random order (Um et al. 2017, ICMI).

    Examples
    --------
    >>> permutation(3).change(np.arange(6.0)[:, None], np.random.default_rng(0))[:, 0].tolist()
    [4.0, 5.0, 0.0, 1.0, 2.0, 3.0]
    """

    def change(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        pieces = np.array_split(x, min(parts, len(x)))
        return np.concatenate([pieces[place] for place in random.permutation(len(pieces))])

    return Step(change=change, axes=2)


@views.add("channel-swap")
def channel_swap(share: Share = 0.5) -> Step:
    """This share of the columns, two at least, change places among themselves, the same ones at all steps.

    Parameters
    ----------
    share : float
        Share of the columns.

    Examples
    --------
    >>> channel_swap(1.0).change(np.array([1.0, 2.0, 3.0]), np.random.default_rng(0)).tolist()
    [3.0, 1.0, 2.0]
    """

    def change(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        width = x.shape[-1]
        if width < 2:
            return x
        columns = random.permutation(width)[: max(2, round(share * width))]
        order = np.arange(width)
        order[columns] = np.roll(columns, 1)  # none of them keeps its place
        return x[..., order]

    return Step(change=change)


@views.add("mixup")
def mixup(alpha: Positive = 0.2) -> Step:
    """A mixture with the neighbour in the batch, rows two by two: the larger part is the row's own (Zhang et al. 2018).

    Its share is drawn from Beta(alpha, alpha), 1 minus it where that is more. A sequence of another length is brought
    to that of the row's own. The last row of a process with an odd number of them stays as it is.

    Parameters
    ----------
    alpha : float
        Both parameters of the Beta distribution; small ones mix little.

    Examples
    --------
    >>> mixed = mixup(1.0).mix(np.zeros(2), np.ones(2), np.random.default_rng(0))
    >>> bool((mixed < 0.5).all())
    True
    """

    def mix(x: np.ndarray, other: np.ndarray, random: np.random.Generator) -> np.ndarray:
        share = beta_share(random, alpha)
        share = max(share, 1.0 - share)
        beside = interpolated(other, len(x)) if x.ndim == 2 else other
        return (share * x + (1.0 - share) * beside).astype(x.dtype)

    return Step(mix=mix)


def interpolated(x: np.ndarray, steps: int) -> np.ndarray:
    """A sequence (T, W) at `steps` places, as far apart as each other, from its first step to its last.

    Examples
    --------
    >>> interpolated(np.array([[0.0], [1.0], [4.0]]), 5)[:, 0].tolist()
    [0.0, 0.5, 1.0, 2.5, 4.0]
    """
    if steps == len(x):
        return x
    places = np.linspace(0.0, len(x) - 1, steps)
    low = np.minimum(places.astype(np.int64), max(len(x) - 2, 0))
    high = np.minimum(low + 1, len(x) - 1)
    part = (places - low)[:, None]
    return ((1.0 - part) * x[low] + part * x[high]).astype(x.dtype)


def _check_range(least: float, most: float) -> None:
    if least > most:
        raise RecipeError(f"least {least:g} is above most {most:g}", where="view", remedy="exchange them")
