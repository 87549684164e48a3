"""One folder that open_clip, transformers and sentence-transformers all read, with a parity report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.formats.open_clip import writer as open_clip_writer
from embedkit.formats.parity import READERS, parity_report
from embedkit.formats.registry import DUAL_KINDS, FolderWriter, writers
from embedkit.formats.transformers import dual_writer

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder


def _write(model: DualEncoder, folder: Path, samples: int = 100) -> dict[str, Any]:
    """Notes and parity report of a new folder with the files of all three libraries, each compared with the model.

    Raises
    ------
    ModelError
        When one of them cannot express the model, with the reason; or when its vectors differ.
    """
    notes = dual_writer.write_files(model, folder) + open_clip_writer.write_files(model, folder)
    return {"notes": list(dict.fromkeys(notes)), "readers": parity_report(model, folder, list(READERS), samples)}


writers.add("clip")(FolderWriter(DUAL_KINDS, _write))
