"""Layer-wise decay of the learning rate: layers near the input of a tower learn more slowly (Howard and Ruder 2018)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_NUMBERED = re.compile(r"(.*?)(\d+)\.")


def layer_factors(names: Sequence[str], decay: float) -> dict[str, float]:
    """Factors on the learning rate of parameters of one tower, given in the order of the module.

    The tower's stack of layers is the one with the most parameters (``encoder.layer.0.`` .., ``resblocks.0.`` ..,
    ``layer1.`` ..). What is registered before it (embeddings) is one level below its first layer, what comes behind it
    and a final ``proj`` one above its last. The top level has factor 1, each level below `decay` times that above.

    Examples
    --------
    >>> layer_factors(["embeddings.word", "layer.0.dense", "layer.1.dense", "pooler.dense"], decay=0.5)
    {'embeddings.word': 0.125, 'layer.0.dense': 0.25, 'layer.1.dense': 0.5, 'pooler.dense': 1.0}
    """
    places = {name: match for name in names if (match := _NUMBERED.match(name)) is not None}
    counts = Counter(match[1] for match in places.values())
    if not counts:
        return dict.fromkeys(names, 1.0)
    stack = max(counts, key=lambda prefix: counts[prefix])
    inside = {name: int(match[2]) for name, match in places.items() if match[1] == stack}
    order = {number: level for level, number in enumerate(sorted(set(inside.values())), start=1)}
    top, entered = len(order) + 1, False
    levels: dict[str, int] = {}
    for name in names:
        entered = entered or name in inside
        outside = top if entered or name.endswith(".proj") else 0
        levels[name] = order[inside[name]] if name in inside else outside
    return {name: decay ** (top - level) for name, level in levels.items()}
