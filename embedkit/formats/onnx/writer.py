"""Export as ONNX graphs: one of a text encoder or of vectors, two of a dual encoder, one of its image tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedkit.formats.image_part import KIND
from embedkit.formats.onnx import dual_graph, image_graph, text_graph, vector_graph
from embedkit.formats.registry import DUAL_KINDS, IMAGE_KINDS, TEXT_KINDS, FolderWriter, writers


def _write(model: Any, folder: Path, samples: int = 100) -> dict[str, Any]:
    """Inputs, settings and agreement of the graphs of a model; see the writer of each."""
    if model.kind == KIND:
        return image_graph.write(model, folder, samples)
    if model.kind == "dual":
        return dual_graph.write(model, folder, samples)
    if model.kind in vector_graph.KINDS:
        return vector_graph.write(model, folder)
    return text_graph.write(model, folder)


writers.add("onnx")(
    FolderWriter(TEXT_KINDS | DUAL_KINDS | IMAGE_KINDS | vector_graph.KINDS, _write, text_graph.need_onnx)
)
