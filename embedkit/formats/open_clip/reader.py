"""open_clip's folders, recognised without reading them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedkit.formats.folder import FolderPlan
from embedkit.formats.registry import FolderReader, readers

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder


@readers.add("open_clip")
class OpenClipReader(FolderReader):
    """Folders with an ``open_clip_config.json``.

    Examples
    --------
    >>> Path("clip").mkdir()
    >>> Path("clip/open_clip_config.json").touch()
    >>> reader = OpenClipReader()
    >>> reader.reads(Path("clip")), reader.plan(Path("clip")).kind
    (True, 'dual')
    """

    name, mark, rank = "open_clip", "open_clip_config.json", 1
    checks_weights = False  # under names of its own; `read` checks them

    def plan(self, root: Path) -> FolderPlan:
        """See `FolderReader.plan`."""
        return FolderPlan(root, root, "dual")

    def dual(self, plan: FolderPlan, *, allow_pickle: bool = False) -> DualEncoder:
        """See `FolderReader.dual`."""
        from embedkit.formats.open_clip.towers import read

        return read(plan.root, allow_pickle=allow_pickle)
