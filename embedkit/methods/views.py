"""Any chain of views with any objective: the general form of the methods that differ in their views only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from embedkit.errors import RecipeError
from embedkit.methods.base import Contract, Method, Row, View, methods
from embedkit.methods.pairs import role_views
from embedkit.views.augmenting import Augmenting
from embedkit.views.base import Chain

Entry = str | Mapping[str, Any]


class Roles(Method):
    """Views of the roles that rows have; "anchor" is also the text of every further view that has no role."""

    contract: ClassVar[Contract] = Contract(accepts=frozenset({"positive", "negatives", "score", "label", "group"}))
    names: tuple[str, ...] = ("anchor", "positive")

    @property
    def provides(self) -> frozenset[str]:
        return frozenset(self.names)

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        anchors = [row["anchor"] for row in rows]
        made = role_views(rows)
        if "positive" in made:  # a row whose source has none is its own positive
            made["positive"].inputs = [row["positive"] or row["anchor"] for row in rows]
        order = [*self.names, *(name for name in made if name not in self.names)]
        return {name: made.get(name) or View(anchors, list(range(len(rows)))) for name in order}


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
    """

    paper: ClassVar[str] = "ConSERT, CLEAR, ESimCSE, SupCL-Seq, DeCLUTR, CompCSE: their views, see docs"
    objective: ClassVar[dict[str, Any]] = {"name": "infonce", "temperature": 0.05}

    def __init__(
        self, anchor: Sequence[Entry] | Entry = (), positive: Sequence[Entry] | Entry = (),
        negatives: Sequence[Entry] | Entry | None = None, more: Sequence[Sequence[Entry]] = (),
    ) -> None:  # fmt: skip
        if isinstance(more, str | Mapping):
            raise RecipeError(
                "more is one entry", where="method.more", remedy="give a list of chains, one for each view"
            )
        given = {"anchor": anchor, "positive": positive, **{f"view{i + 3}": chain for i, chain in enumerate(more)}}
        self.names = tuple(given)
        if negatives is not None:
            given["negatives"] = negatives
        self.chains = {name: Chain.of(entries, f"method.{name}") for name, entries in given.items()}  # type: ignore[misc]
