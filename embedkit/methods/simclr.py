"""SimCLR: two random views of each image."""

from __future__ import annotations

from typing import ClassVar

from embedkit.methods.base import methods
from embedkit.methods.common.image_views import ImageViews


@methods.add("simclr")
class SimCLR(ImageViews):
    """SimCLR (Chen et al. 2020, sections 2 and 3).

    Objective: NT-Xent over both views of the whole batch, temperature 0.1. The projector has one hidden layer with
    batch normalisation over both views of the whole batch, on all processes together. Settings: those of `ImageViews`.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["simclr"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['image'], 'ntxent')
    """

    paper: ClassVar[str] = "Chen et al. 2020, ICML, sections 2 and 3"
