"""Export as a transformers folder: an encoder with its tokenizer, or two towers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedkit.formats.registry import DUAL_KINDS, TEXT_KINDS, FolderWriter, writers
from embedkit.formats.transformers import dual_writer, text_writer


def _write(model: Any, folder: Path, samples: int = 100) -> dict[str, Any]:
    """The report on a text encoder, or on the two towers of a dual encoder; see the writer of each."""
    if model.kind == "dual":
        return dual_writer.write(model, folder, samples)
    return text_writer.write(model, folder)


writers.add("transformers")(FolderWriter(TEXT_KINDS | DUAL_KINDS, _write))
