"""One folder that open_clip, transformers and sentence-transformers all read, with a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.interop import dual_writing, open_clip
from embedkit.interop.certificate import READERS, certify

if TYPE_CHECKING:
    from embedkit.models.dual import DualEncoder


def write(model: DualEncoder, folder: Path, samples: int = 100) -> dict[str, Any]:
    """Write the files of all three libraries and compare what each reads with the model.

    Raises
    ------
    ModelError
        When one of them cannot express the model, with the reason; or when its vectors differ.
    """
    notes = dual_writing.write_files(model, folder) + open_clip.write_files(model, folder)
    return {"notes": list(dict.fromkeys(notes)), "readers": certify(model, folder, list(READERS), samples)}
