"""Any objective on random views of images, of several sizes where they are listed."""

from __future__ import annotations

from typing import ClassVar

from embedkit.methods.base import methods
from embedkit.methods.common.image_views import ImageViews


@methods.add("image-views")
class ListedViews(ImageViews):
    """Random views of an image, a projector, and any objective (SimCLR's by default): SwAV, BYOL, DINO and others.

    Views, settings and running means: `embedkit.methods.common.image_views.ImageViews`.

    Examples
    --------
    >>> method = ListedViews(views=[{"name": "simclr", "count": 2}, {"name": "simclr", "size": 32}])
    >>> sorted(method.provides), method.view_sizes
    (['anchor', 'positive', 'view3'], frozenset({32}))
    """

    paper: ClassVar[str] = "Chen et al. 2020, ICML; views of several sizes: Caron et al. 2020, NeurIPS, section 3.2"
