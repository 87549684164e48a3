"""Objectives over any number of named modalities, of which a row may have some only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.compose.wrappers import Config, Wrapper, merge
from embedkit.objectives.family import take
from embedkit.objectives.registry import build, objective
from embedkit.objectives.tools import choice, number, require

_OF_ROWS = ("ids", "score", "label", "group", "document_id", "position")


def rows_with_both(
    first: str, second: str, embeddings: Mapping[str, Tensor], batch: ObjectiveBatch, guide: str | None = None
) -> tuple[dict[str, Tensor], ObjectiveBatch]:
    """The rows that have two embeddings, as a batch of their own in which these are anchor and positive.

    With `guide`, the rows that have that embedding too, which guides both, without gradient. A name has at most one
    vector a row. The rows of a process stay a slice, so that shares add up as before.

    Examples
    --------
    >>> z = {"image": torch.eye(3), "sound": torch.eye(3)[1:]}
    >>> owner = {"image": torch.arange(3), "sound": torch.tensor([1, 2])}
    >>> pair, own = rows_with_both("image", "sound", z, ObjectiveBatch.of(z, size=3, owner=owner))
    >>> own.size, pair["anchor"].tolist() == pair["positive"].tolist()
    (2, True)
    """
    place = {}
    for name in {first, second, *([] if guide is None else [guide])}:
        owner = batch.owner[name]
        place[name] = owner.new_full((batch.size,), -1)
        place[name][owner] = torch.arange(len(owner), device=owner.device)
    both = torch.stack([places >= 0 for places in place.values()]).all(0)
    rows = both.nonzero()[:, 0]
    at = {"anchor": (first, place[first][rows]), "positive": (second, place[second][rows])}
    every = torch.arange(len(rows), device=rows.device)

    def renamed(by_name: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {new: by_name[old][places] for new, (old, places) in at.items() if old in by_name}

    of_rows: dict[str, Any] = {
        name: None if (value := getattr(batch, name)) is None else value[rows] for name in _OF_ROWS
    }
    guides = renamed(batch.guide)
    if guide is not None:
        guides = dict.fromkeys(at, embeddings[guide][place[guide][rows]].detach())
    own = replace(
        batch, size=len(rows), rows=slice(int(both[: batch.rows.start].sum()), int(both[: batch.rows.stop].sum())),
        owner=dict.fromkeys(at, every), keys=renamed(batch.keys), lengths=renamed(batch.lengths),
        guide=guides, places=renamed(batch.places), scores={},
        targets={name: values[rows] for name, values in batch.targets.items()}, **of_rows,
    )  # fmt: skip
    return renamed(embeddings), own


@objective(
    "modality-pairs", paper="Tian et al. 2020, ECCV, Contrastive Multiview Coding, section 3.3", family="wrapper",
    splits=True, slots="any objective, on pairs of named embeddings that a row may lack",
    cost="that of the objective, for each pair",
)  # fmt: skip
class ModalityPairs(Wrapper):
    """``sum_(a, b) weight_ab * objective(a, b)`` over pairs of modalities, each over the rows that have both.

    All pairs are CMC's full graph, those of one modality with each other its core view. The loss of a pair is the mean
    over its rows, whatever the other rows of the batch lack; a pair with fewer than two rows in a batch costs nothing.
    Each pair has its own copy of the objective (scale, queue, prototypes). Terms are called ``image-sound`` and so on.

    Parameters
    ----------
    objective : mapping or str
        Any objective of "anchor" and "positive".
    names : list of str
        Names of the embeddings.
    pairs : str or list of [str, str]
        "all", the name of the one that is compared with each other, or a list of pairs.
    weights : mapping of str to float, optional
        Pair, as its term is called, -> its weight; 1 for the others.
    guide : str, optional
        Another of the names, whose vectors, without gradient, are the guide of `objective`: rows near to each other in
        one modality are then positives in the others, as in co-training (CoCLR, Han et al. 2020), but in every step.
    dim, num_rows : int or None
        Size of the embeddings and of the training data.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> z = {"image": torch.eye(3), "sound": torch.eye(3)[1:].flip(0), "text": torch.eye(3)}
    >>> batch = ObjectiveBatch.of(z, size=3, owner={n: torch.arange(3 - len(x), 3) for n, x in z.items()})
    >>> config = {"name": "modality-pairs", "objective": "infonce", "names": list(z), "pairs": "image"}
    >>> out = build(config)(z, batch)  # the two rows with a sound have each other's
    >>> {name: round(term.item(), 3) for name, term in out.terms.items() if "/" not in name}
    {'image-sound': 20.0, 'image-text': 0.0}
    """

    def __init__(
        self, *, objective: Config = "infonce", names: Sequence[str] = ("anchor", "positive"),
        pairs: str | Sequence[Sequence[str]] = "all", weights: Mapping[str, float] | None = None,
        guide: str | None = None, dim: int | None = None, num_rows: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        require(len(set(names)) == len(names) >= 2, "names", names, "two or more different names")
        self.pairs = pairs_of(list(names), pairs)
        labels = ["-".join(pair) for pair in self.pairs]
        fits = isinstance(weights or {}, Mapping) and set(weights or {}) <= set(labels)
        require(fits, "weights", weights, f"a mapping of some of {', '.join(labels)} to numbers")
        self.weights = [number("weights", (weights or {}).get(label, 1.0), least=0) for label in labels]
        self._adopt([build(objective, dim=dim, num_rows=num_rows) for _ in self.pairs])
        places = {"anchor", "positive"}
        self.guide = guide if guide is None else choice("guide", guide, tuple(names))
        reads = "guide" in self.requires | self.accepts
        require(guide is None or reads, "guide", guide, "left out: the objective reads no guide")
        self.names = list(dict.fromkeys(name for pair in self.pairs for name in pair))
        if guide is not None:
            places |= {"guide"}
            self.names += [guide] * (guide not in self.names)
        self.requires = (self.requires - places) | frozenset(self.names)
        self.accepts = self.accepts - places - {"negatives"}

    def _parts(
        self, embeddings: dict[str, Tensor], batch: ObjectiveBatch
    ) -> Iterator[tuple[int, dict[str, Tensor], ObjectiveBatch]]:
        """The pairs that have rows to compare: number, vectors, batch."""
        for at, (first, second) in enumerate(self.pairs):
            vectors, own = rows_with_both(first, second, embeddings, batch, self.guide)
            if own.size > 1:
                yield at, vectors, own

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The weighted sum over the pairs."""
        embeddings = dict(zip(self.names, take(embeddings, *self.names), strict=True))
        nothing = sum((z.sum() for z in embeddings.values()), torch.zeros(())) * 0.0
        parts = {"-".join(pair): (0.0, LossOutput(nothing)) for pair in self.pairs}
        for at, vectors, own in self._parts(embeddings, batch):
            parts["-".join(self.pairs[at])] = (self.weights[at], self.inner[at](vectors, own))
        return merge(parts)

    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Update the state of every copy whose pair has rows."""
        for at, vectors, own in self._parts(embeddings, batch):
            self.inner[at].after_step(vectors, own)  # type: ignore[operator]


def pairs_of(names: list[str], pairs: str | Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """The pairs that a setting means: "all", those of one name with each other, or a list.

    Examples
    --------
    >>> pairs_of(["image", "sound", "text"], "sound")
    [('sound', 'image'), ('sound', 'text')]
    """
    if pairs == "all":
        return list(itertools.combinations(names, 2))
    if isinstance(pairs, str):
        require(pairs in names, "pairs", pairs, f"'all', one of {', '.join(names)}, or a list of pairs")
        return [(pairs, name) for name in names if name != pairs]
    twos = [(pair[0], pair[1]) for pair in pairs if not isinstance(pair, str) and len(pair) == 2]
    fits = len(twos) == len(pairs) > 0 and all(set(pair) <= set(names) and pair[0] != pair[1] for pair in twos)
    require(fits, "pairs", pairs, f"a list of pairs of {', '.join(names)}")
    require(len(set(map(frozenset, twos))) == len(twos), "pairs", pairs, "each pair once")
    return twos


@objective(
    "modality-views", paper="Khosla et al. 2020, NeurIPS, eq. 2, with the modalities of a row as its views",
    family="wrapper", splits=True, slots="any objective of anchor and label, on all modalities as one batch",
)  # fmt: skip
class ModalityViews(Wrapper):
    """One objective over the vectors of all modalities at once, in which those of one row have one label.

    A row with m modalities gives m vectors; each is an anchor, the others of its row are its positives, and all vectors
    of other rows, of any modality, its negatives. A vector without a positive counts as zero in the mean.

    Parameters
    ----------
    objective : mapping or str
        Any objective of "anchor" and "label".
    names : list of str
        Names of the embeddings.
    positives : str
        "row": vectors of one row; "label": those of rows with one label of the data.
    dim, num_rows : int or None
        Size of the embeddings and of the training data.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> z = {"image": torch.eye(3), "sound": torch.eye(3)[1:]}
    >>> batch = ObjectiveBatch.of(z, size=3, owner={n: torch.arange(3 - len(x), 3) for n, x in z.items()})
    >>> supcon = {"name": "supcon", "temperature": 1.0, "base_temperature": 1.0}
    >>> loss = build({"name": "modality-views", "names": list(z), "objective": supcon})(z, batch).loss
    >>> round(loss.item(), 4)  # the image without a sound has no positive
    0.5949
    """

    def __init__(
        self, *, objective: Config = "supcon", names: Sequence[str] = ("anchor", "positive"), positives: str = "row",
        dim: int | None = None, num_rows: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        require(len(set(names)) == len(names) >= 2, "names", names, "two or more different names")
        self.names, self.positives = list(names), choice("positives", positives, ("row", "label"))
        self._adopt([build(objective, dim=dim, num_rows=num_rows)])
        self.requires = (self.requires - {"anchor", "label"}) | set(names) | ({"label"} & {positives})
        self.accepts = self.accepts - {"positive", "negatives"}

    def _whole(
        self, embeddings: dict[str, Tensor], batch: ObjectiveBatch
    ) -> tuple[dict[str, Tensor], ObjectiveBatch]:  # fmt: skip
        """All vectors row by row, and the batch in which each is a row."""
        owner = torch.cat([batch.owner[name] for name in self.names])
        order = owner.argsort(stable=True)
        rows = owner[order]
        view = torch.cat([torch.full_like(batch.owner[name], at) for at, name in enumerate(self.names)])[order]

        def joined(by_name: Mapping[str, Tensor]) -> dict[str, Tensor]:
            there = all(name in by_name for name in self.names)
            return {"anchor": torch.cat([by_name[name] for name in self.names])[order]} if there else {}

        label = rows if self.positives == "row" or batch.label is None else batch.label[rows]
        of_rows: dict[str, Any] = {
            name: None if (value := getattr(batch, name)) is None else value[rows]
            for name in ("score", "group", "document_id", "position")
        }
        first, last = (int((rows < end).sum()) for end in (batch.rows.start, batch.rows.stop))
        own = replace(
            batch, size=len(rows), rows=slice(first, last),
            owner={"anchor": torch.arange(len(rows), device=rows.device)}, keys=joined(batch.keys),
            lengths=joined(batch.lengths), guide=joined(batch.guide), places={}, scores={}, label=label,
            ids=batch.ids[rows] * len(self.names) + view,
            targets={name: values[rows] for name, values in batch.targets.items()}, **of_rows,
        )  # fmt: skip
        return joined(embeddings), own

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The objective's loss on all vectors."""
        embeddings = dict(zip(self.names, take(embeddings, *self.names), strict=True))
        return self.inner[0](*self._whole(embeddings, batch))

    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Update the state of the objective."""
        self.inner[0].after_step(*self._whole(embeddings, batch))  # type: ignore[operator]
