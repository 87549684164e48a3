"""Which patches of an image are hidden: one by one, or in blocks as BEiT draws them and iBOT hides them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from embedkit.errors import RecipeError
from embedkit.models.augment.counter_rng import GOLDEN, mixed

_SLIMMEST, _TRIES, _AT_ONCE = 0.3, 10, 64


@dataclass(frozen=True)
class HiddenPatches:
    """Draws the hidden patches of images; settings are those of `embedkit.methods.ibot.IBot`.

    Raises
    ------
    RecipeError
        The lower rate is the higher one, or no image would have any.

    Examples
    --------
    >>> mask = HiddenPatches(share=1.0, low=0.1, high=0.5, shape="blocks")
    >>> bool(19 <= mask(np.array([7], np.uint64), (14, 14)).sum() <= 98)
    True
    """

    share: float
    low: float
    high: float
    shape: str

    def __post_init__(self) -> None:
        if self.low > self.high:
            what = f"low is {self.low:g} and high {self.high:g}"
            raise RecipeError(what, where="method.low", remedy="give the lower first")
        if not self.share:
            raise RecipeError("share is 0: no image would have hidden patches", where="method.share",
                              remedy="set it above 0, or leave the term out")  # fmt: skip

    def check(self, grid: tuple[int, int]) -> None:
        """Refuse a grid in which nothing could be hidden."""
        count, least = grid[0] * grid[1], max(1, least_block(grid))
        most = self.high * count
        if self.shape == "patches":
            if round(most) < 1:
                raise RecipeError(
                    f"high is {self.high:g}: none of the {count} patches of an image would be hidden",
                    where="ibot.high", remedy=f"set it to {1 / count:.2g} at least",
                )  # fmt: skip
            return
        if min(grid) < 2:
            raise RecipeError(f"images of {grid[0]} x {grid[1]} patches have no room for blocks", where="ibot.shape",
                              remedy="set it to patches, or take larger images or smaller patches")  # fmt: skip
        if most < least:
            raise RecipeError(
                f"high is {self.high:g}: blocks of {grid[0]} x {grid[1]} patches have {least} at least, and {most:.2g} "
                "would be hidden",
                where="ibot.high", remedy=f"set it to {math.ceil(100 * least / count) / 100:g} at least, or ibot.shape "
                "to patches",
            )  # fmt: skip

    def notes(self, grid: tuple[int, int]) -> list[str]:
        """That few patches are no block, where the lower rates ask for so few."""
        least, count = least_block(grid), grid[0] * grid[1]
        if self.shape == "patches" or self.low * count >= least:
            return []
        return [f"ibot: blocks of {grid[0]} x {grid[1]} patches have {least} at least: at rates below "
                f"{least / count:.2g} next to none are hidden"]  # fmt: skip

    def __call__(self, seeds: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """The hidden patches bool (n, P) of the images with these seeds (n,); each a function of its seed."""
        import torch

        from embedkit.models.modules.patches import seeded

        count = grid[0] * grid[1]
        draws = seeded(seeds, count + 2, torch.device("cpu")).numpy()
        chance = draws[:, :2] / 2.0**63
        most = np.where(chance[:, 0] < self.share, self.low + (self.high - self.low) * chance[:, 1], 0.0) * count
        if self.shape == "blocks":
            own = [blocks(uniform(seed, 3), float(m), grid) for seed, m in zip(seeds, most, strict=True)]
            return np.array(own, dtype=bool).reshape(-1, count)
        rank = draws[:, 2:].argsort(axis=1).argsort(axis=1)
        return np.asarray(rank < most.round()[:, None])


def least_block(grid: tuple[int, int]) -> int:
    """Patches of the smallest rectangle that is asked for in a grid.

    Examples
    --------
    >>> least_block((14, 14)), least_block((4, 4))
    (16, 1)
    """
    side = min(grid) // 3
    return side * side


def blocks(draws: Iterator[float], most: float, grid: tuple[int, int]) -> np.ndarray:
    """Hidden patches, bool (down, across): rectangles one after the other, `most` patches at most.

    Each has an area drawn evenly from `least_block` to what is left of `most`, and a height over width drawn evenly in
    the logarithm from 0.3 to 1 / 0.3; it is taken where it fits, hides something new, and no more than is left. It ends
    when ten in a row are not taken, so that mostly a few less than `most` are hidden. BEiT's algorithm (Bao et al.
    2022, ICLR, section 2.3) with the smallest area of iBOT's code, both from memory.

    Parameters
    ----------
    draws : iterator of float
        Numbers from 0 to 1, four for each rectangle.

    Examples
    --------
    >>> blocks(uniform(np.uint64(1)), 8, (4, 4)).astype(int)
    array([[0, 0, 0, 0],
           [1, 1, 1, 0],
           [0, 1, 1, 1],
           [0, 1, 1, 0]])
    """
    (down, across), least = grid, least_block(grid)
    hidden = np.zeros(grid, dtype=bool)
    left, tries = most, _TRIES
    while tries and left > 0:
        tries -= 1
        area = least + (left - least) * next(draws)
        shape = math.exp(math.log(_SLIMMEST) * (1 - 2 * next(draws)))
        high, wide = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        top, start = int(next(draws) * (down - high + 1)), int(next(draws) * (across - wide + 1))
        if high >= down or wide >= across:
            continue
        block = hidden[top : top + high, start : start + wide]
        new = block.size - int(block.sum())
        if 0 < new <= left:
            block[:] = True
            left, tries = left - new, _TRIES
    return hidden


def uniform(seed: np.uint64, first: int = 1) -> Iterator[float]:
    """Numbers from 0 to 1 without end, the same for a seed: SplitMix64 over a counter that starts at `first`.

    Examples
    --------
    >>> draws = uniform(np.uint64(1))
    >>> 0 <= next(draws) < 1, next(draws) != next(draws)
    (True, True)
    """
    while True:
        with np.errstate(over="ignore"):
            x = mixed(seed + np.arange(first, first + _AT_ONCE, dtype=np.uint64) * GOLDEN)
        yield from ((x >> np.uint64(11)) * 2.0**-53).tolist()
        first += _AT_ONCE
