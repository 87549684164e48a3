"""Mixed pairs: pictures or texts of two rows become one, by the coin of a batch (ZeroVL)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

USE = "mixed pairs"
"""What the draws of a batch are for, see `embedkit.objectives.base.ObjectiveBatch.random`."""


@dataclass(frozen=True)
class Mix:
    """How the rows of a batch are mixed with their partners.

    Attributes
    ----------
    share : float
        Of a row's own; the rest is its partner's.
    texts : bool
        Whether the vectors of texts are mixed, not the pixels of images.
    box : (float, float) or None
        For pixels: the middle, down and across, of a box of the partner's that is pasted (CutMix), as shares of the
        sides; None adds pixels up (mixup).

    Examples
    --------
    >>> Mix.drawn(np.random.default_rng(0), alpha=0.1, cutmix=0.0, texts=0.5).box is None
    True
    """

    share: float
    texts: bool
    box: tuple[float, float] | None = None

    @classmethod
    def drawn(cls, random: np.random.Generator, alpha: float, cutmix: float, texts: float) -> Mix:
        """A coin for texts, a share from Beta(alpha, alpha), and with probability `cutmix` a box."""
        is_text = float(random.random()) < texts
        share = beta_share(random, alpha)
        draws = [float(x) for x in random.random(3)]
        return cls(share, is_text, (draws[1], draws[2]) if not is_text and draws[0] < cutmix else None)

    def pixels(self, own: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Mixed pixels, uint8 (3, H, W), of two images.

        >>> black, white = np.zeros((3, 2, 2), np.uint8), np.full((3, 2, 2), 255, np.uint8)
        >>> int(Mix(0.8, texts=False).pixels(black, white)[0, 0, 0])
        51
        """
        if self.box is None:
            return np.rint(self.share * own + (1.0 - self.share) * other).astype(np.uint8)
        top, bottom, left, right = self._sides(own.shape[1:])
        pasted = own.copy()
        pasted[:, top:bottom, left:right] = other[:, top:bottom, left:right]
        return pasted

    def share_of(self, size: tuple[int, int]) -> float:
        """Share of a row's own in images of this size: a box is cut by the border and by whole pixels."""
        if self.box is None:
            return self.share
        top, bottom, left, right = self._sides(size)
        return 1.0 - (bottom - top) * (right - left) / (size[0] * size[1])

    def _sides(self, size: Any) -> tuple[int, int, int, int]:
        assert self.box is not None
        half = [0.5 * side * math.sqrt(1.0 - self.share) for side in size]
        places = [middle * side for middle, side in zip(self.box, size, strict=True)]
        low = [max(0, round(place - h)) for place, h in zip(places, half, strict=True)]
        high = [min(int(side), round(place + h)) for place, h, side in zip(places, half, size, strict=True)]
        return low[0], high[0], low[1], high[1]


def partners(count: int) -> np.ndarray:
    """The way from each row to its partner, int64 (count, 1): 1 and -1 by turns, 0 for an odd one out at the end.

    >>> partners(3)[:, 0].tolist()
    [1, -1, 0]
    """
    way = np.where(np.arange(count) % 2 == 0, 1, -1)
    if count % 2:
        way[-1] = 0
    return way[:, None].astype(np.int64)


def beta_share(random: np.random.Generator, alpha: float) -> float:
    """A number from Beta(alpha, alpha) by Jöhnk's way (1964), of uniform numbers only.

    >>> 0.0 < beta_share(np.random.default_rng(0), 0.5) < 1.0
    True
    """
    while True:
        x, y = (math.log1p(-float(u)) / alpha for u in random.random(2))  # logarithms of the two powers
        top = max(x, y)
        total = top + math.log(math.exp(x - top) + math.exp(y - top))
        if total <= 0.0:
            return math.exp(x - total)
