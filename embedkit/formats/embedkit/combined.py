"""Models made of models in embedkit's own folder: each member is a model folder in a folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError
from embedkit.formats.folder import OWN_FILE, FolderPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedkit.models.combined.members import CombinedModel


def member_count(kind: str, spec: Mapping[str, Any]) -> int:
    """How many members a model of this kind and these settings has; 0 for one that is not made of models.

    Examples
    --------
    >>> member_count("concatenation", {"weights": [1.0, 0.5]}), member_count("chain", {}), member_count("text", {})
    (2, 2, 0)
    """
    if kind == "concatenation":
        return len(spec["weights"])
    if kind == "multi-prompt":
        return 1 + len(spec["templates"])
    return len(spec["modalities"]) if kind == "multi" else 2 if kind == "chain" else 0


def read_combined(plan: FolderPlan) -> CombinedModel:
    """The model of an inspected folder with members.

    Raises
    ------
    ModelError
        A member is missing or damaged, or the settings do not fit.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.formats.detect import inspect
    >>> from embedkit.models import StaticEncoder
    >>> from embedkit.models.combined.concatenation import EncoderConcatenation
    >>> members = [StaticEncoder(tokenizer(), dim=4), StaticEncoder(tokenizer(), dim=2)]
    >>> folder = EncoderConcatenation(members, [1.0, 0.5]).save("both")
    >>> read_combined(inspect(folder)).weights
    [1.0, 0.5]
    """
    from embedkit.formats.detect import inspect
    from embedkit.formats.loading import assemble
    from embedkit.models.combined.chain import EncoderChain
    from embedkit.models.combined.concatenation import EncoderConcatenation
    from embedkit.models.combined.multi import MultiEncoder
    from embedkit.models.combined.multi_prompt import MultiPromptEncoder
    from embedkit.models.vectors.feature import FeatureEncoder

    missing = [folder for folder in plan.members if not (folder / OWN_FILE).is_file()]
    if missing:
        raise ModelError("file is missing", where=str(missing[0] / OWN_FILE), remedy="the model folder is incomplete")
    members, spec = [assemble(inspect(folder)) for folder in plan.members], plan.spec
    if plan.kind == "concatenation":
        return EncoderConcatenation(members, spec["weights"], spec["unit"], spec["normalize"])
    if plan.kind == "multi":
        return MultiEncoder(dict(zip(spec["modalities"], members, strict=True)), spec["normalize"])
    if plan.kind == "multi-prompt":
        return MultiPromptEncoder(members[0], members[1:], spec["templates"], spec["normalize"])
    encoder, head = members
    if not isinstance(head, FeatureEncoder):
        raise ModelError("the second member of a chain maps vectors", where=str(plan.members[1]),
                         remedy="write the folder again")  # fmt: skip
    return EncoderChain(encoder, head, spec["unit"], spec["normalize"])
