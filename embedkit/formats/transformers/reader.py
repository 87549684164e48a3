"""transformers' folders: an encoder with its tokenizer, or CLIP's and SigLIP's two towers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedkit.formats.folder import DUAL_TYPES, FolderPlan, model_type
from embedkit.formats.registry import FolderReader, readers
from embedkit.formats.transformers.pooling import default_pooling

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder


@readers.add("transformers")
class TransformersReader(FolderReader):
    """Folders with a ``config.json``.

    Examples
    --------
    >>> _ = Path("config.json").write_text('{"model_type": "bert"}')
    >>> plan = TransformersReader().plan(Path())
    >>> plan.kind, plan.spec
    ('text', {'pooling': 'mean'})
    """

    name, mark, rank = "transformers", "config.json", 5

    def plan(self, root: Path) -> FolderPlan:
        """See `FolderReader.plan`."""
        plan = FolderPlan(root, root, "dual" if model_type(root) in DUAL_TYPES else "text")
        if plan.kind == "text":
            default_pooling(plan)
        return plan

    def dual(self, plan: FolderPlan, *, allow_pickle: bool = False) -> DualEncoder:
        """See `FolderReader.dual`."""
        from embedkit.formats.transformers.dual_reader import read

        return read(plan, allow_pickle=allow_pickle)
