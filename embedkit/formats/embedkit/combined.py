"""Models made of models in embedkit's own folder: each member is a model folder in a folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedkit.errors import ModelError
from embedkit.formats.detect import inspect
from embedkit.formats.folder import OWN_FILE, FolderPlan

if TYPE_CHECKING:
    from embedkit.models.combined.concatenation import EncoderConcatenation


def read_combined(plan: FolderPlan) -> EncoderConcatenation:
    """The model of an inspected folder with members.

    Raises
    ------
    ModelError
        A member is missing or damaged, or the settings do not fit.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> from embedkit.models.combined.concatenation import EncoderConcatenation
    >>> members = [StaticEncoder(tokenizer(), dim=4), StaticEncoder(tokenizer(), dim=2)]
    >>> folder = EncoderConcatenation(members, [1.0, 0.5]).save("both")
    >>> read_combined(inspect(folder)).weights
    [1.0, 0.5]
    """
    from embedkit.formats.loading import assemble
    from embedkit.models.combined.concatenation import EncoderConcatenation

    missing = [folder for folder in plan.members if not (folder / OWN_FILE).is_file()]
    if missing:
        raise ModelError("file is missing", where=str(missing[0] / OWN_FILE), remedy="the model folder is incomplete")
    members = [assemble(inspect(folder)) for folder in plan.members]
    return EncoderConcatenation(members, plan.spec["weights"], plan.spec["unit"], plan.spec["normalize"])
