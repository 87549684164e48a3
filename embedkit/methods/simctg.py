"""SimCTG's term: token vectors of a text kept apart; by itself, or beside any other method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import NotNegative
from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


class TokenTerm(Method):
    """A loss of the tokens of single texts: by itself, or of every text view of the method that it stands beside.

    `embed` gives for each text a sum and what it is divided by; the term is the ratio of both over the whole batch.

    Examples
    --------
    >>> TokenTerm.objective is None, sorted(TokenTerm.contract.requires)
    (True, ['anchor'])
    """

    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))
    objective: ClassVar[dict[str, Any] | None] = None
    term: ClassVar[str] = ""
    """The name in the log."""

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def adapt(self, model: Model) -> None:
        from embedkit.models.modules.text import TextEncoder

        if not isinstance(model, TextEncoder):
            raise ModelError(f"a {model.kind} model has no token vectors", remedy="use a transformers encoder")

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return {"anchor": View([row["anchor"] for row in rows], list(range(len(rows))))}

    def beside(self, views: Mapping[str, View]) -> dict[str, View]:
        return {
            name: View(view.inputs, view.owner, view.prompt) for name, view in views.items() if view.tower == "text"
        }

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.methods.common.parts import own_rows

        count = torch.stack([z[:, 1].sum() for z in outputs.values()]).sum().detach()
        mine = [z[own_rows(batch.owner[name], batch.rows), 0].sum() for name, z in outputs.items()]
        return {self.term: torch.stack(mine).sum() / count.clamp(min=1.0)}


@methods.add("simctg-term")
class TokenIsotropy(TokenTerm):
    """SimCTG's contrastive term over tokens (Su et al. 2022, NeurIPS, section 3).

    ``mean of max(0, margin - 1 + cos(h_i, h_j))`` over all pairs i != j of tokens of one text, of all texts of the
    batch: another token may be no nearer than 1 - margin. It reads the last layer's states, special tokens included;
    they are causal where the encoder is. The paper adds it with weight 1 to the next-word loss of GPT-2; here it stands
    beside any method (``auxiliary: [{name: simctg-term, weight: 1.0}]``), with a forward pass of its own for each text
    view. A margin of 0 gives no loss unless two vectors are equal. Where an encoder's tokens are apart already
    (`embedkit eval --suite own-tokens`), it does nothing.

    Parameters
    ----------
    margin : float
        rho; the official code has 0.5.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["simctg-term"]().margin
    0.5
    """

    paper: ClassVar[str] = "Su et al. 2022, NeurIPS, A Contrastive Framework for Neural Text Generation, section 3"
    term: ClassVar[str] = "isotropy"

    def __init__(self, margin: NotNegative = 0.5) -> None:
        self.margin = margin

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """For each text the sum of its pairs' losses, and their number: (n, 2)."""
        import torch

        from embedkit.models.modules.masked import in_input_order

        states = in_input_order(model.token_states(inputs, **settings), inputs)
        wide = states if states.dtype == torch.float64 else states.float()
        unit = torch.nn.functional.normalize(wide, dim=1)
        size = torch.from_numpy(inputs.costs).to(wide.device)
        places = torch.from_numpy(inputs.places).to(wide.device)
        owner = torch.from_numpy(inputs.owner).to(wide.device)
        longest = int(inputs.costs.max(initial=1))
        table = unit.new_zeros(len(inputs), longest, unit.shape[1]).index_put((owner, places), unit)
        real = torch.arange(longest, device=size.device)[None, :] < size[:, None]  # (n, L)
        pairs = real[:, :, None] & real[:, None, :] & ~torch.eye(longest, dtype=torch.bool, device=size.device)
        losses = (self.margin - 1 + table @ table.transpose(1, 2)).relu() * pairs
        return torch.stack([losses.sum(dim=(1, 2)), (size * (size - 1)).to(losses.dtype)], dim=1)
