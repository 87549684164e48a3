"""embedkit's own folder, written: what sentence-transformers reads too, and ``embedkit.json`` beside it.

A dual encoder's text tower is a folder of its own, its image tower stands beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit import __version__
from embedkit.formats.embedkit.classifiers import write_classifiers
from embedkit.formats.embedkit.dual import IMAGE, PROJECTIONS, TEXT
from embedkit.formats.folder import OWN_FILE, OWN_FORMAT, member_folders, write_json
from embedkit.formats.sentence_transformers.writer import write_model
from embedkit.formats.tensors import write_tensors
from embedkit.models.combined.members import CombinedModel
from embedkit.models.encode.quantization import RANGES_FILE
from embedkit.models.modules.adapters import has_adapters, merged_state
from embedkit.models.modules.dual import DualEncoder
from embedkit.models.vectors.base import VectorEncoder

if TYPE_CHECKING:
    from embedkit.models.base import Model


def write_own(model: Model, folder: Path, recipe: dict[str, Any] | None = None) -> None:
    """Fill an empty folder with `model` and its ``embedkit.json``.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> from embedkit.formats.folder import read_json
    >>> Path("words").mkdir()
    >>> write_own(StaticEncoder(tokenizer(), dim=4), Path("words"))
    >>> read_json(Path("words/embedkit.json"))["kind"]
    'static'
    """

    layout = _write_layout(model, folder)
    own = {
        "format": OWN_FORMAT, "kind": model.kind, "embedkit": __version__, "hash": model.hash(), "spec": layout,
        "recipe": recipe,
    }  # fmt: skip
    write_json(folder / OWN_FILE, own)
    write_classifiers(model.classifiers, folder)
    if model.vector_ranges is not None:
        model.vector_ranges.save(folder / RANGES_FILE)


def _write_layout(model: Model, folder: Path) -> dict[str, Any]:
    """Write the parts of a model; the spec for ``embedkit.json``."""
    if isinstance(model, DualEncoder):
        return _write_dual(model, folder)
    if isinstance(model, CombinedModel):
        for member, place in zip(model.models, member_folders(folder, len(model.models)), strict=True):
            place.mkdir()
            write_own(member, place)
        return model.own_spec()
    if isinstance(model, VectorEncoder):
        write_tensors(model.state_dict(), folder)
        return model.spec()
    return write_model(model, folder)


def _write_dual(model: DualEncoder, folder: Path) -> dict[str, Any]:
    """The rest of the spec for ``embedkit.json``; writes both towers and the projections.

    ``text/`` is a complete folder of the text tower alone, ``image/`` holds the weights of the image tower under the
    names of the library that it comes from.
    """

    (folder / TEXT).mkdir()
    write_own(model.text, folder / TEXT)
    (folder / IMAGE).mkdir()
    encoder = model.image.encoder
    write_tensors(merged_state(encoder) if has_adapters(encoder) else encoder.state_dict(), folder / IMAGE)
    write_tensors(model.projections.state_dict(), folder, PROJECTIONS)
    return {key: value for key, value in model.spec().items() if key != "text"}
