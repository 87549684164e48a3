"""Export as a transformers folder: an encoder with its tokenizer, two towers, or an image tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedkit.formats.image_part import KIND
from embedkit.formats.registry import DUAL_KINDS, IMAGE_KINDS, TEXT_KINDS, FolderWriter, writers
from embedkit.formats.transformers import dual_writer, image_writer, text_writer


def _write(model: Any, folder: Path, samples: int = 100) -> dict[str, Any]:
    """The report on a text encoder, a dual encoder or its image tower; see the writer of each."""
    if model.kind == KIND:
        return image_writer.write(model, folder, samples)
    if model.kind == "dual":
        return dual_writer.write(model, folder, samples)
    return text_writer.write(model, folder)


writers.add("transformers")(FolderWriter(TEXT_KINDS | DUAL_KINDS | IMAGE_KINDS, _write))
