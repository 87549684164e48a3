"""Heads that tell a target from a vector: trained beside an encoder, and kept with it where that is asked for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.models.heads.layers import Dense


class TargetHead(nn.Module):
    """A linear layer, or one hidden layer before it, (N, I) -> (N, O).

    Parameters
    ----------
    inputs, outputs : int
        Sizes.
    kind : str
        What is told, see `embedkit.data.schema.targets.KINDS`.
    classes : sequence of str
        Names of the outputs; empty where they have none.
    hidden : int
        Width of the hidden layer; 0 is none.
    activation : str
        Of the hidden layer, a key of `embedkit.models.heads.layers.ACTIVATIONS`.

    Examples
    --------
    >>> head = TargetHead(8, 2, "class", ["no", "yes"])
    >>> head(torch.zeros(3, 8)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self, inputs: int, outputs: int, kind: str, classes: Sequence[str] = (), hidden: int = 0,
        activation: str = "tanh",
    ) -> None:  # fmt: skip
        super().__init__()
        self.kind, self.classes, self.hidden, self.activation = kind, tuple(classes), hidden, activation
        between = [Dense(inputs, hidden, activation)] if hidden else []
        self.inputs, self.outputs = inputs, outputs
        self.layers = nn.Sequential(*between, nn.Linear(hidden or inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        return self.layers(x)

    def spec(self) -> dict[str, Any]:
        """The constructor's arguments, as plain JSON values."""
        return {
            "inputs": self.inputs, "outputs": self.outputs, "kind": self.kind, "classes": list(self.classes),
            "hidden": self.hidden, "activation": self.activation,
        }  # fmt: skip

    @torch.no_grad()
    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Float32 (N, O): probabilities, which sum to 1 where one class of several is told; numbers as they are.

        Examples
        --------
        >>> TargetHead(8, 2, "soft").scores(np.zeros((1, 8), np.float32)).sum().round(4)
        np.float32(1.0)
        """
        if vectors.shape[1:] != (self.inputs,):
            raise ModelError(
                f"the head reads vectors of {self.inputs} numbers, not {vectors.shape[-1]}",
                remedy="leave truncate_dim out",
            )
        x = self(torch.from_numpy(np.ascontiguousarray(vectors, np.float32)))
        if self.kind in ("class", "soft"):
            x = x.softmax(dim=1)
        elif self.kind in ("classes", "degrees"):
            x = x.sigmoid()
        return x.numpy()

    def named(self, scores: np.ndarray) -> Any:
        """What scores (N, O) say: the class of each row, the classes of probability 1/2 and more, or the scores.

        Examples
        --------
        >>> scores = np.array([[0.2, 0.8], [0.6, 0.7]])
        >>> TargetHead(8, 2, "class", ["a", "b"]).named(scores), TargetHead(8, 2, "classes", ["a", "b"]).named(scores)
        (['b', 'b'], [['b'], ['a', 'b']])
        """
        if self.kind == "class":
            return [self.classes[place] for place in scores.argmax(axis=1)]
        if self.kind == "classes":
            return [[self.classes[place] for place in np.flatnonzero(row >= 0.5)] for row in scores]
        return scores


def kept(head: TargetHead) -> TargetHead:
    """A copy for use beside a model: on the CPU in float32, without gradients.

    Examples
    --------
    >>> kept(TargetHead(8, 2, "class", ["no", "yes"])).training
    False
    """
    return copy.deepcopy(head).to("cpu", torch.float32).requires_grad_(False).eval()
