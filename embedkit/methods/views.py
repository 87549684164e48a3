"""Any chain of views with any objective: the general form of the methods that differ in their views only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import SkipValidation

from embedkit.data.schema.contract import Contract
from embedkit.data.vectors.rows import column_of, filled_column
from embedkit.methods.base import Method, Row, View, methods
from embedkit.methods.common.augmenting import Augmenting
from embedkit.methods.pairs import role_views
from embedkit.views.base import Chain

Entry = str | Mapping[str, Any]
Steps = Annotated[Sequence[Entry] | Entry, SkipValidation]
"""One chain; `Chain.of` looks at it, and says which entry is wrong."""


class Roles(Method):
    """Views of the roles that rows have; "anchor" is also the text of every further view that has no role.

    Examples
    --------
    >>> views = Roles().views([{"anchor": "a cat"}], np.random.default_rng)
    >>> {name: view.inputs for name, view in views.items()}
    {'anchor': ['a cat'], 'positive': ['a cat']}
    """

    contract: ClassVar[Contract] = Contract(
        accepts=frozenset({"positive", "negatives", "score", "scores", "label", "group"})
    )
    names: tuple[str, ...] = ("anchor", "positive")

    @property
    def provides(self) -> frozenset[str]:
        return frozenset(self.names)

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        anchors = column_of(rows, "anchor")
        by_role = role_views(rows)
        if "positive" in by_role:  # a row whose source has none is its own positive
            by_role["positive"].inputs = filled_column(rows, "positive", "anchor")
        order = [*self.names, *(name for name in by_role if name not in self.names)]
        return {name: by_role.get(name) or View(anchors, list(range(len(rows)))) for name in order}


@methods.add("views")
class Views(Augmenting, Roles):
    """Chains of views, chosen in the recipe.

    Every row gives an anchor and a positive: the row's own positive where the data have one, else the anchor's text
    again. Each goes through its chain; two copies without a chain differ by dropout (unsupervised SimCSE). With
    ``augment`` any other method takes the same chains.

    Parameters
    ----------
    anchor, positive, negatives : list of entries, optional
        Chains: names of views, or ``{name: word-deletion, rate: 0.1}``.
    more : list of chains, optional
        Further views of the anchor, "view3", "view4" ..., for objectives of many views.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["views"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'infonce')
    """

    paper: ClassVar[str] = "ConSERT, CLEAR, ESimCSE, SupCL-Seq, DeCLUTR, CompCSE: their views, see docs"
    objective: ClassVar[dict[str, Any]] = {"name": "infonce", "temperature": 0.05}

    def __init__(
        self, anchor: Steps = (), positive: Steps = (), negatives: Steps | None = None, more: Sequence[Steps] = ()
    ) -> None:  # fmt: skip
        chains = {"anchor": Chain.of(anchor, "method.anchor"), "positive": Chain.of(positive, "method.positive")}
        chains |= {f"view{i + 3}": Chain.of(chain, f"method.more.{i}") for i, chain in enumerate(more)}
        self.names = tuple(chains)
        if negatives is not None:
            chains["negatives"] = Chain.of(negatives, "method.negatives")
        self.chains = chains  # type: ignore[misc]
