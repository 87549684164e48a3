"""From the token vectors of a sequence to one vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embedkit.errors import ModelError, UserError, nearest
from embedkit.models.execution.plan import Group, Plan
from embedkit.registry import Registry


@dataclass(frozen=True)
class TokenStates:
    """Token vectors of a pack of sequences.

    Attributes
    ----------
    layers : dict of int to Tensor (T, H)
        Hidden states by layer: 0 the embedding layer, 1 the first transformer layer, -1 the last; only those that the
        pooler asked for. Tokens in the order of `plan`.
    plan : Plan
        Where each sequence lies.
    marks : LongTensor (N,) or None
        Place of the marked token within each sequence, in the order of `plan`.
    first : int64 (N,) or None
        Place of the first token of each sequence in the text that it comes from; 0 when None.

    Examples
    --------
    >>> states = TokenStates({-1: torch.tensor([[1.0], [2.0], [4.0]])}, Plan.of(np.array([2, 1])))
    >>> pooler_of("mean").pool(states).tolist()
    [[1.0], [3.0]]
    >>> states.without_first(np.array([1, 0])).last.tolist()
    [[1.0], [4.0]]
    """

    layers: dict[int, Tensor]
    plan: Plan
    marks: Tensor | None = None
    first: np.ndarray | None = None

    def without_first(self, counts: np.ndarray) -> TokenStates:
        """The states without the first tokens of each sequence, of which one at least stays.

        `counts`, int64 (N,), has the number of tokens to leave out in the order of the inputs. Marks are dropped.
        """
        plan = self.plan
        out = np.minimum(counts[plan.order], plan.lengths - 1)
        places = np.flatnonzero(plan.places() >= np.repeat(out, plan.lengths))
        layers = {layer: _rows(hidden, torch.from_numpy(places)) for layer, hidden in self.layers.items()}
        return TokenStates(layers, _shortened(plan, plan.lengths - out), None, out)

    @property
    def last(self) -> Tensor:
        """The last layer, (T, H)."""
        return self.layers[-1]


def _shortened(plan: Plan, lengths: np.ndarray) -> Plan:
    """The sequences of a plan in the same order with other lengths (N,), which need not rise."""
    starts = np.cumsum(lengths) - lengths
    first = np.flatnonzero(np.diff(lengths, prepend=-1))
    counts = np.diff(np.append(first, len(lengths)))
    groups = (Group(int(starts[at]), int(n), int(lengths[at])) for at, n in zip(first, counts, strict=True))
    return Plan(plan.order, lengths, starts, tuple(groups))


@dataclass(frozen=True)
class Pooler:
    """One way of pooling.

    Attributes
    ----------
    pool : callable
        TokenStates -> (N, H), rows in the order of the plan.
    layers : tuple of int
        The hidden states it reads.

    Examples
    --------
    >>> states = TokenStates({-1: torch.tensor([[1.0], [2.0], [4.0]])}, Plan.of(np.array([2, 1])))
    >>> Pooler(lambda states: states.last[states.plan.starts]).pool(states).tolist()
    [[1.0], [2.0]]
    """

    pool: Callable[[TokenStates], Tensor]
    layers: tuple[int, ...] = (-1,)


poolers: Registry[Pooler] = Registry("pooler")


def pooler_of(name: str) -> Pooler:
    """The pooler of a name, or of several joined by ``+``: their vectors one behind the other.

    Raises
    ------
    ModelError
        Naming the part that is unknown.

    Examples
    --------
    >>> pooler_of("cls+first-last").layers
    (-1, 1)
    """
    unknown = [part for part in str(name).split("+") if part not in poolers]
    if unknown:
        raise ModelError(f"unknown pooler {unknown[0]!r}", remedy=nearest(unknown[0], poolers))
    parts = [poolers[part] for part in name.split("+")]
    if len(parts) == 1:
        return parts[0]
    layers = tuple(dict.fromkeys(layer for part in parts for layer in part.layers))
    return Pooler(lambda states: torch.cat([part.pool(states) for part in parts], dim=-1), layers)


def _blocks(hidden: Tensor, plan: Plan) -> list[Tensor]:
    """The groups of equal length as (n, l, H) views of `hidden` (T, H)."""
    parts = hidden.split([group.tokens for group in plan.groups])
    return [part.view(group.count, group.length, -1) for part, group in zip(parts, plan.groups, strict=True)]


def _mean(hidden: Tensor, plan: Plan) -> Tensor:
    return torch.cat([block.mean(1, dtype=_wide(hidden)).to(hidden.dtype) for block in _blocks(hidden, plan)])


def _mean_sqrt_len(states: TokenStates) -> Tensor:
    """Sums over the square root of the number of tokens."""
    blocks = _blocks(states.last, states.plan)
    wide = _wide(states.last)
    sums = [block.sum(1, dtype=wide) / block.shape[1] ** 0.5 for block in blocks]
    return torch.cat(sums).to(states.last.dtype)


def _weighted_mean(states: TokenStates) -> Tensor:
    """Means with weights 1, 2, 3, ... by the place of a token in its text (SGPT, Muennighoff 2022, section 3.1)."""
    places = states.plan.places() + 1
    if states.first is not None:
        places = places + np.repeat(states.first, states.plan.lengths)
    hidden = states.last
    weights = torch.from_numpy(places).to(hidden.device, _wide(hidden))[:, None]
    sums = [block.sum(1) for block in _blocks(hidden * weights, states.plan)]
    totals = [block.sum(1) for block in _blocks(weights, states.plan)]
    return (torch.cat(sums) / torch.cat(totals)).to(hidden.dtype)


def _wide(hidden: Tensor) -> torch.dtype:
    """The type in which sums are taken: float32 for half precision."""
    return torch.float32 if hidden.dtype in (torch.float16, torch.bfloat16) else hidden.dtype


def _rows(hidden: Tensor, places: Tensor) -> Tensor:
    return hidden.index_select(0, places.to(hidden.device))


def _cls(states: TokenStates) -> Tensor:
    return _rows(states.last, torch.from_numpy(states.plan.starts))


def _last_token(states: TokenStates) -> Tensor:
    return _rows(states.last, torch.from_numpy(states.plan.starts + states.plan.lengths - 1))


def _max(states: TokenStates) -> Tensor:
    return torch.cat([block.amax(1) for block in _blocks(states.last, states.plan)])


def _first_last(states: TokenStates) -> Tensor:
    return _mean((states.layers[1] + states.last) / 2, states.plan)


def _embedding_last(states: TokenStates) -> Tensor:
    return _mean((states.layers[0] + states.last) / 2, states.plan)


def _last_two(states: TokenStates) -> Tensor:
    return _mean((states.layers[-2] + states.last) / 2, states.plan)


def _mask(states: TokenStates) -> Tensor:
    if states.marks is None:
        raise UserError(
            "mask pooling needs a template that holds the mask token",
            remedy="set model.prompts and model.default_prompt, e.g. 'This sentence : \"{}\" means [MASK].'",
        )
    starts = torch.from_numpy(states.plan.starts).to(states.marks.device)
    return _rows(states.last, starts + states.marks)


# cls: the first token. max: per coordinate. last-token: the last real token. mean-sqrt-len: the sum over the square
# root of the number of tokens. weighted-mean: later tokens weigh more.
poolers.add("cls")(Pooler(_cls))
poolers.add("mean")(Pooler(lambda states: _mean(states.last, states.plan)))
poolers.add("max")(Pooler(_max))
poolers.add("mean-sqrt-len")(Pooler(_mean_sqrt_len))
poolers.add("weighted-mean")(Pooler(_weighted_mean))
poolers.add("last-token")(Pooler(_last_token))
# mask: the token marked by a template (PromptBERT, Jiang et al. 2022, section 4).
poolers.add("mask")(Pooler(_mask))
# first-last: mean over tokens of the mean of the first transformer layer and the last, as the SimCSE code computes its
# baseline today; embedding-last takes the embedding layer in place of the first, as in the paper's table
# (Gao et al. 2021, 56.70 on BERT-base).
poolers.add("first-last")(Pooler(_first_last, layers=(1, -1)))
poolers.add("embedding-last")(Pooler(_embedding_last, layers=(0, -1)))
# last-two: mean over tokens of the mean of the last two layers (ConSERT, Yan et al. 2021, at test time).
poolers.add("last-two")(Pooler(_last_two, layers=(-2, -1)))
