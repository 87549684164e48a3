"""The contract of a method: which views of a row, which extra parts, which objective, what stays at use time.

The trainer knows no paper; a method knows no training loop. One optimiser step runs (see `embedkit.training.step`):

1. `views` makes named inputs of this process's rows;
2. every input goes through the encoder, chunk by chunk (gradient cache);
3. the embeddings of all processes are gathered; `project` may pass them through parts that need the whole batch
   (a BatchNorm projector is exact for any number of chunks and processes there);
4. the objective turns them into this process's share of the loss;
5. `local_loss` adds, chunk by chunk, losses of single rows that read an embedding (a conditional discriminator);
6. gradients flow back through the cached embeddings into the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

Row = Mapping[str, Any]


@dataclass
class View:
    """One named input of the encoder.

    Attributes
    ----------
    inputs : list
        Texts (str) or images.
    owner : list of int
        For each input, the row of this process's batch it belongs to; not decreasing.
    prompt : str or None
        Prompt text that is put in front of, or around (with ``{}``), each text.
    tower : str
        Which encoder: "text" or "image".
    settings : dict
        Settings of the forward pass, e.g. ``{"cutoff": "token"}``; inputs with equal settings share chunks.
    """

    inputs: list[Any]
    owner: list[int]
    prompt: str | None = None
    tower: str = "text"
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contract:
    """The roles a method reads; checked on the schema and the first rows before a model is loaded."""

    requires: frozenset[str] = frozenset({"anchor"})
    accepts: frozenset[str] = frozenset()

    @property
    def roles(self) -> frozenset[str]:
        """All roles the method knows."""
        return self.requires | self.accepts


class Method:
    """Base class of methods; a subclass is one readable file with the paper in its docstring."""

    paper: ClassVar[str] = ""
    contract: ClassVar[Contract] = Contract()
    objective: ClassVar[dict[str, Any]] = {"name": "infonce", "temperature": 0.05}

    @property
    def provides(self) -> frozenset[str]:
        """Names of views that exist whatever roles the rows have."""
        return frozenset({"anchor"})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        """Named inputs of these rows.

        ``random(i)`` is the generator of row i, a pure function of (seed, epoch, step, place of the row in the whole
        batch): what a method draws does not depend on the number of processes.
        """
        raise TypeError(f"{type(self).__name__} does not define views")

    def parts(self, dim: int) -> nn.ModuleDict:
        """Extra trained modules, kept in checkpoints and left out of the exported model."""
        from torch import nn

        return nn.ModuleDict()

    def project(self, embeddings: dict[str, Tensor], parts: nn.ModuleDict) -> dict[str, Tensor]:
        """Pass the gathered embeddings of the whole batch through parts; same names out."""
        return embeddings

    def local_loss(self, name: str, embeddings: Tensor, inputs: Sequence[Any], parts: nn.ModuleDict) -> Tensor | None:
        """A loss summed over these rows of one view, given their projected embeddings (n, D), or None."""
        return None


methods: Registry[type[Method]] = Registry("method")
