"""embedkit's own folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedkit.formats.folder import OWN_FILE, OWN_FORMAT, FolderPlan, inside, read_json
from embedkit.formats.registry import FolderReader, readers

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder

from pathlib import Path

from embedkit.errors import ModelError


@readers.add("embedkit")
class EmbedkitReader(FolderReader):
    """Folders with an ``embedkit.json``.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> folder = StaticEncoder(tokenizer(), dim=4, ngrams=2, buckets=100).save("words")
    >>> plan = EmbedkitReader().plan(folder)
    >>> plan.kind, plan.spec["ngrams"]
    ('static', 2)
    """

    name, mark, rank = "embedkit", OWN_FILE, 0

    def plan(self, root: Path) -> FolderPlan:
        """See `FolderReader.plan`."""
        return _plan(root)

    def dual(self, plan: FolderPlan, *, allow_pickle: bool = False) -> DualEncoder:
        """See `FolderReader.dual`."""
        from embedkit.formats.embedkit.dual import read_dual

        return read_dual(plan)


def _plan(root: Path) -> FolderPlan:
    """The plan of a folder with an ``embedkit.json``."""
    contents = read_json(root / OWN_FILE)
    if not isinstance(contents, dict) or contents.get("format") != OWN_FORMAT or "kind" not in contents:
        version = contents.get("format") if isinstance(contents, dict) else type(contents).__name__
        where, remedy = str(root / OWN_FILE), "use the embedkit that wrote it"
        raise ModelError(f"format {version!r} is not {OWN_FORMAT}", where=where, remedy=remedy)
    spec = dict(contents["spec"])
    layers = spec.pop("dense", [])
    dense = [(_folder(root, layer.pop("folder", None)), layer) for layer in layers if not layer["train_only"]]
    train_only = [layer for layer in layers if layer["train_only"]]
    plan = FolderPlan(root, root, contents["kind"], "", spec, dense, train_only)
    plan.similarity = spec.pop("similarity_fn_name", "cosine")
    return plan


def _folder(root: Path, name: str | None) -> Path | None:
    return None if name is None else inside(root, name, OWN_FILE)
