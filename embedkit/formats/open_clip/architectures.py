"""The architectures of open_clip by their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from embedkit.errors import ModelError, nearest


def architecture(name: str, ours: Iterable[str] = ()) -> dict[str, Any]:
    """open_clip's configuration of a named architecture; `ours` are further names for the hint on a wrong one.

    Raises
    ------
    ModelError
        open_clip has no such name.
    MissingExtraError
        open_clip is not installed.

    Examples
    --------
    >>> architecture("ViT-B-32")["embed_dim"]
    512
    """
    from embedkit.errors import need

    need("open_clip", "clip", f"the size {name!r}")
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        remedy = nearest(name, [*ours, *open_clip.list_models()]) if len(name) > 3 else f"known: {', '.join(ours)}"
        raise ModelError(f"unknown size {name!r}", where="model.towers", remedy=remedy)
    return config


def architecture_names() -> list[str]:
    """Names of open_clip's architectures; none where it is not installed.

    Examples
    --------
    >>> "ViT-B-32" in architecture_names()
    True
    """
    from importlib.util import find_spec

    if find_spec("open_clip") is None:
        return []
    import open_clip

    return list(open_clip.list_models())
