"""iBOT's blocks of hidden patches: against loops, from seeds alone, and what is said where they do not fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.methods import methods
from embedkit.models.heads.pixels import PixelDecoder
from embedkit.models.inputs.images import ImageInputs
from embedkit.models.modules.patches import PatchTokens, seeded


def _blocks_by_loops(seed: int, most: float, grid: tuple[int, int]) -> list[list[bool]]:
    """BEiT's algorithm patch by patch, with numbers of SplitMix64 from its definition."""
    whole, number = 2**64, 2
    down, across = grid

    def draw() -> float:
        nonlocal number
        number += 1
        x = (seed + number * 0x9E3779B97F4A7C15) % whole
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % whole
        x = (x ^ x >> 27) * 0x94D049BB133111EB % whole
        return ((x ^ x >> 31) >> 11) / 2**53

    hidden, count, failed = [[False] * across for _ in range(down)], 0, 0
    while failed < 10 and count < most:
        least = (min(grid) // 3) ** 2
        area = least + (most - count - least) * draw()
        aspect = 0.3 * (1 / 0.09) ** draw()
        high, wide = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        top, start = math.floor(draw() * (down - high + 1)), math.floor(draw() * (across - wide + 1))
        block = [(y, x) for y in range(top, top + high) for x in range(start, start + wide)]
        fits = high < down and wide < across
        new = sum(not hidden[y][x] for y, x in block) if fits else 0
        if not 0 < new <= most - count:
            failed += 1
            continue
        for y, x in block:
            hidden[y][x] = True
        count, failed = count + new, 0
    return hidden


@pytest.mark.parametrize("grid", [(14, 14), (7, 9), (4, 4), (2, 3)])
def test_blocks_of_hidden_patches(grid: tuple[int, int]) -> None:
    """Against loops; a function of each image's seed alone; a rate from low to high is not exceeded."""
    mask, count = methods["ibot"](share=0.6).mask, grid[0] * grid[1]
    seeds = np.random.default_rng(0).integers(2**63, size=40, dtype=np.uint64) * 2
    hidden = mask(seeds, grid)
    chance = seeded(seeds, 2, torch.device("cpu")).numpy() / 2**63
    for seed, (drawn, rate), own in zip(seeds.tolist(), chance, hidden, strict=True):
        most = (0.1 + 0.4 * rate) * count if drawn < 0.6 else 0.0
        assert own.reshape(grid).tolist() == _blocks_by_loops(seed, most, grid)
        assert own.sum() <= most
    assert 10 < hidden.any(axis=1).sum() < 40
    assert np.array_equal(mask(seeds[[7, 3]], grid), hidden[[7, 3]])
    assert methods["ibot"](share=0.6, shape="patches").mask(seeds, grid).sum(axis=1).tolist() == [
        round((0.1 + 0.4 * rate) * count) if drawn < 0.6 else 0 for drawn, rate in chance
    ]


def test_rates_at_which_no_block_is_hidden_are_noted() -> None:
    method = methods["ibot"]()
    for grid, told in (((14, 14), 0), ((12, 12), 1)):
        method.grid = grid
        notes = method.notes(None)
        assert len(notes) == told
    assert "16 at least: at rates below 0.11" in notes[0]


def test_crops_of_another_grid_than_the_decoders_have_no_pixels_to_restore() -> None:
    method = methods["masked-pixels"](layers=0, width=8)
    decoder = PixelDecoder(8, grid=(4, 4), patch=(2, 2), layers=0, width=8, heads=1)
    parts: Any = {"decoder": decoder, "mask": {"filler": torch.zeros(8)}}
    for side, hidden in ((8, 12.0), (4, 0.0)):
        grid = (side // 2, side // 2)
        inputs = ImageInputs(torch.rand(3, 3, side, side), grid[0] * grid[1], {"seeds": np.arange(3, dtype=np.uint64)})
        patches = PatchTokens(torch.zeros(3, 8), torch.rand(3, grid[0] * grid[1], 8), grid)
        assert method.patch_columns(patches, parts, inputs)[:, 1].tolist() == [hidden] * 3
        assert (method.cover(inputs, parts) is None) == (not hidden)
