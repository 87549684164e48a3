"""Random numbers of a sequence that depend on its seed only.

Whatever is drawn here for a text (a mask, a cut, an order) is the same in any chunk, on any process, in a packed or a
padded run, and when a step is computed again. No generator has a state: each number is a hash of (seed, stream, place).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from embedkit.models.inputs.inputs import Inputs
    from embedkit.models.inputs.sequences import SequenceInputs

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The step of SplitMix64's counter."""


def mixed(values: np.ndarray) -> np.ndarray:
    """Hashes, uint64, of integers of any shape: the finaliser of SplitMix64 (Steele, Lea and Flood 2014, section 5).

    Examples
    --------
    >>> mixed(np.array([1, 2])).tolist()
    [6238072747940578789, 15839785061582574730]
    """
    z = values.astype(np.uint64, copy=True)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def name_hash(name: str) -> np.uint64:
    """A hash of a name, 64 bits: the same on every machine.

    Examples
    --------
    >>> int(name_hash("shuffle"))
    814485138493480667
    """
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))


def seeds_of(key: tuple[int, ...], name: str, rows: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Seeds, uint64 (N,), of inputs `copies` (N,) of `rows` (N,) under a key of integers and a name.

    Examples
    --------
    >>> seeds_of((0, 3), "dropout", rows=np.array([7, 7]), copies=np.array([0, 1])).tolist()
    [5599687459772558594, 9055901301136542011]
    """
    state = np.asarray([name_hash(name)])
    with np.errstate(over="ignore"):
        for part in key:
            state = mixed(state + GOLDEN) ^ np.uint64(part)
        return mixed(mixed(mixed(state + GOLDEN) ^ rows.astype(np.uint64)) + copies.astype(np.uint64) * GOLDEN)


def uniforms(inputs: Inputs, stream: str, width: int | None = None) -> np.ndarray:
    """Numbers in [0, 1), float64: one for each token (T,), or `width` for each sequence (N, width).

    `stream` names what they are for; numbers of different streams are independent.

    Examples
    --------
    >>> from embedkit.models.inputs.inputs import Inputs
    >>> texts = Inputs.of([[2, 7, 3], [2, 3]]).replace(seeds=np.array([1, 2], dtype=np.uint64))
    >>> uniforms(texts, "noise").round(3).tolist()
    [0.555, 0.47, 0.07, 0.665, 0.65]
    >>> uniforms(texts, "cut", width=2).round(3).tolist()
    [[0.298, 0.741], [0.356, 0.426]]
    """
    with np.errstate(over="ignore"):
        keys = mixed((inputs.seeds ^ name_hash(stream)) + GOLDEN)  # (N,)
        if width is None:
            counters = keys[inputs.owner] + (inputs.places.astype(np.uint64) + np.uint64(1)) * GOLDEN
        else:
            counters = keys[:, None] + (np.arange(width, dtype=np.uint64) + np.uint64(1)) * GOLDEN
        return (mixed(counters) >> np.uint64(11)) * 2.0**-53


def step_uniforms(inputs: SequenceInputs, stream: str, width: int) -> np.ndarray:
    """Numbers in [0, 1), float64 (S, width): `width` for each step of each sequence; see `uniforms`.

    Examples
    --------
    >>> from embedkit.models.inputs.sequences import SequenceInputs
    >>> import torch
    >>> one = SequenceInputs(torch.zeros(3, 2), np.array([1, 2]), {"seeds": np.array([1, 2], np.uint64)})
    >>> step_uniforms(one, "noise", 2).round(3).tolist()
    [[0.555, 0.47], [0.665, 0.65], [0.772, 0.055]]
    """
    with np.errstate(over="ignore"):
        keys = mixed((inputs.seeds ^ name_hash(stream)) + GOLDEN)[inputs.owner]
        place = inputs.places[:, None] * width + np.arange(1, width + 1)
        return (mixed(keys[:, None] + place.astype(np.uint64) * GOLDEN) >> np.uint64(11)) * 2.0**-53


def ranks(inputs: Inputs, values: np.ndarray) -> np.ndarray:
    """Rank of each token's value (T,) among those of its sequence: 0 the smallest, int64 (T,).

    Examples
    --------
    >>> from embedkit.models.inputs.inputs import Inputs
    >>> ranks(Inputs.of([[2, 7, 3], [2, 3]]), np.array([0.5, 0.1, 0.9, 0.4, 0.2])).tolist()
    [1, 0, 2, 1, 0]
    """
    order = np.lexsort((values, inputs.owner))
    result = np.empty(inputs.tokens, dtype=np.int64)
    result[order] = inputs.places
    return result
