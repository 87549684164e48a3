"""One step of any recipe in float64 without dropout, so that ways of computing it can be compared."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from embedkit.config.recipe_io import load_recipe
from embedkit.training import setup
from embedkit.training.loop.build import batches_of, build_state, image_cache_of, open_inputs
from embedkit.training.loop.cache import Chunking
from embedkit.training.loop.step import TrainStep
from embedkit.training.optim.precision import choose_precision
from embedkit.training.parallel.engine import Engine
from tests.training import common


@contextlib.contextmanager
def no_dropout() -> Iterator[None]:
    """Dropout of every kind lets all pass; modules stay in training mode."""
    real, kernels = F.scaled_dot_product_attention, "embedkit.models.execution.kernels"

    def attention(*args: Any, **settings: Any) -> Any:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        return real(**{**dict(zip(names, args, strict=False)), **settings, "dropout_p": 0.0})

    with (
        mock.patch(f"{kernels}.dropout_mask", lambda shape, p: torch.ones(shape, dtype=torch.uint8)),
        mock.patch(f"{kernels}.dropout_factor", return_value=1.0),
        mock.patch.object(F, "dropout", lambda x, *args, **settings: x),
        mock.patch.object(F, "scaled_dot_product_attention", attention),
    ):
        yield


def gradients(
    given: dict[str, Any], chunking: Chunking | None = None, packing: str | None = None
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss share of this process and gradients of the first step of a recipe."""
    with tempfile.TemporaryDirectory() as folder, no_dropout(), contextlib.ExitStack() as stack:
        inputs = open_inputs(setup.check_all(load_recipe(given)))
        engine = Engine(inputs.recipe, Path(folder))
        state, _ = build_state(inputs, engine, choose_precision(inputs.recipe.train.precision, engine.world.device))
        bundle = state.bundle.double()
        if bundle.guide is not None:
            bundle.guide.encoder.double()
        if packing is not None:
            bundle.model.packing = packing
        images = image_cache_of(inputs, Path(folder), bundle.model, engine.world, lambda line: None)
        stream = stack.enter_context(contextlib.closing(batches_of(inputs, state, images, engine.world, stack)))
        batch = next(stream)
        bundle.train()
        step = TrainStep(
            bundle, inputs.method, engine.world, chunking or Chunking(), autocast=contextlib.nullcontext, total_steps=20
        )
        torch.manual_seed(0)
        loss = float(step.gradients(batch).loss)
        step.after_update()
        return loss, common.gradients(step)
