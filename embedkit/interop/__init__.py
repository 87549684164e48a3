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
# the same for dual encoders: write(model, folder, samples)
_DUAL_WRITERS = {
    "clip": "embedkit.interop.clip_folder",
    "open_clip": "embedkit.interop.open_clip",
    "sentence-transformers": "embedkit.interop.dual_writing",
    "transformers": "embedkit.interop.dual_writing",
    "onnx": "embedkit.interop.onnx_dual",
}
CERTIFICATE = "embedkit_export.json"


def export(
    model: Model, path: str | Path, format: str = "sentence-transformers", *, overwrite: bool = False,
    samples: int = 100,
) -> Path:  # fmt: skip
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
        against the model. A dual encoder is written in these formats too, and as "open_clip" or "clip": one folder for
        open_clip, transformers and sentence-transformers.
    samples : int
        Images and texts that the certificate of a dual encoder compares, made by embedkit itself.

    Raises
    ------
    ModelError
        When the format is unknown, or cannot express this model; the reason is named.
    """
    from embedkit.models.saving import write_folder, write_json

    writers = _DUAL_WRITERS if model.kind == "dual" else _WRITERS
    if format not in writers:
        raise ModelError(f"unknown export format {format!r} for a {model.kind} model", remedy=nearest(format, writers))
    writer = import_module(writers[format])
    settings = {"samples": samples} if model.kind == "dual" else {}

    def write(folder: Path) -> None:
        said = writer.write(model, folder, **settings)
        write_json(folder / CERTIFICATE, {"format": format, "hash": model.hash(), **said})

    return write_folder(path, write, ours=CERTIFICATE, overwrite=overwrite)
