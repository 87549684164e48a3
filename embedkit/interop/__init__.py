"""Models in the formats of other libraries. Writing goes through `export`; reading is `embedkit.models.load`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit.errors import ModelError, nearest

if TYPE_CHECKING:
    from embedkit.models.base import Model

__all__ = ["export"]

# format -> module with write(model, folder) -> dict of what is said about the export
_WRITERS = {
    "sentence-transformers": "embedkit.interop.sentence_transformers",
    "transformers": "embedkit.interop.transformers",
    "onnx": "embedkit.interop.onnx",
}
CERTIFICATE = "embedkit_export.json"


def export(model: Model, path: str | Path, format: str = "sentence-transformers", *, overwrite: bool = False) -> Path:
    """Write `model` as a folder that another library reads.

    Parameters
    ----------
    model : Model
        What to write.
    path : str or Path
        The folder; an earlier export is replaced, anything else only with `overwrite`.
    format : str
        "sentence-transformers": vectors equal to ours. "transformers": the encoder and its tokenizer (a tanh head on
        the first token becomes the pooler). "onnx": one graph from token ids and mask to the final vector, checked
        against the model.

    Raises
    ------
    ModelError
        When the format is unknown, or cannot express this model; the reason is named.
    """
    from embedkit.models.saving import write_folder, write_json

    if format not in _WRITERS:
        raise ModelError(f"unknown export format {format!r} for a {model.kind} model", remedy=nearest(format, _WRITERS))
    writer = import_module(_WRITERS[format])

    def write(folder: Path) -> None:
        said = writer.write(model, folder)
        write_json(folder / CERTIFICATE, {"format": format, "hash": model.hash(), **said})

    return write_folder(path, write, ours=CERTIFICATE, overwrite=overwrite)
