"""SigLIP: every image-text pair of the batch is a question of yes or no."""

from __future__ import annotations

from typing import Any, ClassVar

from embedkit.methods.base import methods
from embedkit.methods.clip import ImageText


@methods.add("siglip")
class SigLip(ImageText):
    """SigLIP (Zhai et al. 2023, section 3).

    Objective: every image-text pair of the batch is a question of yes or no; the sigmoid loss is summed over pairs and
    divided by the batch size. The learned scale starts at 10, the learned bias at -10.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["siglip"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['image', 'texts'], 'siglip')
    """

    paper: ClassVar[str] = "Zhai et al. 2023, ICCV, section 3"
    objective: ClassVar[dict[str, Any] | None] = {"name": "siglip", "target": "shared-input"}
