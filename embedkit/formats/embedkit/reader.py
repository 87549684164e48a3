"""embedkit's own folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedkit.formats.embedkit.combined import member_count
from embedkit.formats.folder import OWN_FILE, OWN_FORMAT, FolderPlan, inside, member_folders, read_json
from embedkit.formats.registry import FolderReader, readers
from embedkit.formats.sentence_transformers.reader import plan_of_modules

if TYPE_CHECKING:
    from embedkit.models.base import Model
    from embedkit.models.modules.dual import DualEncoder

from pathlib import Path

from embedkit.errors import ModelError

_SHARED = ("pooling", "max_length", "normalize", "prompts", "default_prompt", "pool_prompt")
"""Settings that files of sentence-transformers hold too."""
_DEFAULTS: dict[str, Any] = {"prompts": {}, "default_prompt": None, "pool_prompt": True}


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

    def combined(self, plan: FolderPlan) -> Model:
        """See `FolderReader.combined`."""
        from embedkit.formats.embedkit.combined import read_combined

        return read_combined(plan)


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
    plan.members = list(member_folders(root, member_count(plan.kind, spec)))
    _obey_changes(plan)
    return plan


def _obey_changes(plan: FolderPlan) -> None:
    """Let what the files of sentence-transformers say count where they were changed after embedkit wrote them.

    People change those by hand (prompts, length, pooling), and sentence-transformers reads nothing else. The files are
    compared where they describe the whole model.
    """
    listing = plan.root / "modules.json"
    modules = read_json(listing) if listing.is_file() else []
    if plan.kind not in ("text", "clip-text", "static") or not modules:
        return
    if not all(str(module.get("type", "")).startswith("sentence_transformers.") for module in modules):
        return
    theirs = plan_of_modules(plan.root)
    ours = _DEFAULTS | plan.spec
    ours["prompts"] = {name: text.removesuffix("{}") for name, text in ours["prompts"].items()}  # as they are written
    changes = {key: theirs.spec.get(key, _DEFAULTS.get(key)) for key in _SHARED if key in {**theirs.spec, **_DEFAULTS}}
    changes = {key: value for key, value in changes.items() if key in ours}
    if any(settings.get("kind") == "cut" for _, settings in [*plan.dense, *theirs.dense]):
        changes.pop("normalize", None)
    changes = {key: value for key, value in changes.items() if ours[key] != value}
    plan.spec |= changes
    lines = [f"{key} {value!r} (was {ours[key]!r})" for key, value in changes.items()]
    if theirs.similarity != plan.similarity:
        lines.append(f"similarity_fn_name {theirs.similarity!r} (was {plan.similarity!r})")
        plan.similarity = theirs.similarity
    if lines:
        plan.notes.append(f"changed since embedkit wrote the folder, and used: {', '.join(lines)}")


def _folder(root: Path, name: str | None) -> Path | None:
    return None if name is None else inside(root, name, OWN_FILE)
