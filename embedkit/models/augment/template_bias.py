"""Template denoising: what a template says without any text in it (PromptBERT, Jiang et al. 2022, section 4.3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from embedkit.errors import UserError
from embedkit.models.inputs.inputs import Inputs


@dataclass(frozen=True)
class TemplateBias:
    """How a text encoder takes the bias of its template off.

    Attributes
    ----------
    when : str
        "training", or "always".
    at : str
        "pooled": one head reads the difference of the pooled vectors. "head": the head is applied to both, and its
        outputs are subtracted.
    shift : int
        Added to the positions of the bias pass. The official code counts RoBERTa's positions there from 0 and not from
        2, so -2 repeats it.

    Examples
    --------
    >>> TemplateBias(when="training").spec()
    {'when': 'training', 'at': 'pooled', 'shift': 0}
    """

    when: Literal["training", "always"] = "always"
    at: Literal["pooled", "head"] = "pooled"
    shift: int = 0

    def spec(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


def bare_templates(inputs: Inputs, shift: int = 0) -> tuple[Inputs, Tensor]:
    """The templates of `inputs` without their texts, the tokens behind at the places that they had.

    Returns one input for each distinct (template, number of text tokens), and for each of the N inputs the number of
    its own, int64 (N,).

    Raises
    ------
    UserError
        When the inputs were not made with a template that marks a token.

    Examples
    --------
    >>> texts = Inputs.of([[2, 9, 5, 6, 4, 3]], marks=[4], data={"gaps": np.array([[2, 4]])})
    >>> bare, number = bare_templates(texts)
    >>> bare.rows(), bare.positions.tolist(), bare.marks.tolist(), number.tolist()
    ([[2, 9, 4, 3]], [0, 1, 4, 5], [2], [0])
    """
    gaps = inputs.data.get("gaps")
    if gaps is None or inputs.marks is None:
        raise UserError(
            "a template's bias needs inputs made with a template that holds the mask token",
            remedy="set model.prompts and model.default_prompt",
        )
    inside = (inputs.places >= gaps[inputs.owner, 0]) & (inputs.places < gaps[inputs.owner, 1])
    bare = inputs.keep(~inside)
    flat, ends = bare.ids.cpu().numpy(), bare.offsets
    index_of: dict[tuple[int, bytes], int] = {}
    first: list[int] = []
    number = np.empty(len(inputs), dtype=np.int64)
    for i in range(len(inputs)):
        key = int(gaps[i, 1] - gaps[i, 0]), flat[ends[i] : ends[i + 1]].tobytes()
        if key not in index_of:
            index_of[key] = len(first)
            first.append(i)
        number[i] = index_of[key]
    # the mark moves to the left by the text in front of it
    size = gaps[:, 1] - gaps[:, 0]
    marks = inputs.marks - np.where(inputs.marks >= gaps[:, 1], size, 0)
    templates = bare.replace(marks=marks).select(np.asarray(first, dtype=np.int64))
    if shift and templates.positions is not None:
        templates = templates.replace(positions=templates.positions + shift)
    return templates, torch.from_numpy(number).to(inputs.device)
