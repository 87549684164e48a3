"""Tiny models and batches for the trainer's tests."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from embedkit import objectives
from embedkit.config.model import ModelConfig
from embedkit.data import RowBatch
from embedkit.factory import build
from embedkit.methods.base import Method
from embedkit.methods.pairs import Pairs
from embedkit.training.loop.batches import StepBatch, prepare
from embedkit.training.loop.cache import Chunking
from embedkit.training.loop.step import Bundle, TrainStep
from embedkit.training.parallel.distributed import World

TINY = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64,
}  # fmt: skip

WORDS = [
    "a",
    "the",
    "cat",
    "dog",
    "bird",
    "sings",
    "sleeps",
    "runs",
    "red",
    "blue",
    "small",
    "near",
    "river",
    "house",
    "tree",
    "and",
    "child",
    "with",
    "old",
    "song",
]


def model_config(dropout: float = 0.0, **changes: Any) -> ModelConfig:
    """A tiny random BERT with the builtin tokenizer."""
    known = {"config": TINY, "tokenizer": "builtin", "pooling": "mean", "dropout": dropout, "max_length": 24}
    return ModelConfig(**{**known, **changes})


def texts(count: int, salt: int = 0) -> list[str]:
    """Texts of 1 to 9 words, a pure function of the arguments."""
    return [
        " ".join(WORDS[(i * 7 + j * (3 + salt) + salt) % len(WORDS)] for j in range(1 + (i * 5 + salt) % 9))
        for i in range(count)
    ]


def rows(count: int, ragged: bool = True) -> list[dict[str, Any]]:
    """Triplets whose number of hard negatives differs from row to row."""
    anchors, positives = texts(count), texts(count, 1)
    found = []
    for i in range(count):
        hard = texts(1 + (i % 3 if ragged else 0), 2 + i)
        found.append(
            {"anchor": anchors[i], "positive": positives[i], "negatives": hard, "label": i % 3, "score": (i % 6) / 5}
        )
    return found


def row_batch(data: list[dict[str, Any]], rank: int = 0, world: int = 1, step: int = 0) -> Any:
    """This process's slice of a batch of rows, as the data part gives it."""
    size = len(data)
    start, stop = rank * size // world, (rank + 1) * size // world
    return RowBatch(data[start:stop], list(range(start, stop)), size, start, step)


def make_step(
    objective: dict[str, Any] | str, chunking: Chunking | None = None, *, dtype: torch.dtype = torch.float64,
    method: Method | None = None, config: ModelConfig | None = None,
) -> TrainStep:  # fmt: skip
    """A step over a tiny model with equal weights on every process."""
    model = build(config or model_config(), 3).to(dtype)
    torch.manual_seed(5)
    loss = objectives.build(objective, dim=model.dim, num_rows=64).to(dtype)
    method = method or Pairs()
    bundle = Bundle(model, method.parts(model).to(dtype), loss)
    bundle.train()
    return TrainStep(bundle, method, World(), chunking or Chunking(), autocast=contextlib.nullcontext)


def step_batch(step: TrainStep, data: list[dict[str, Any]], number: int = 0) -> StepBatch:
    """The batch of this process."""
    batch = row_batch(data, step.world.rank, step.world.size, number)
    return prepare(batch, step.method, step.bundle.model, seed=1, epoch=0)


def gradients(step: TrainStep) -> dict[str, torch.Tensor]:
    """Gradients by parameter name; zeros where there is none."""
    return {
        n: (p.grad if p.grad is not None else torch.zeros_like(p)).clone() for n, p in step.bundle.named_parameters()
    }


def largest_error(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Largest relative error over tensors: norm of the difference over norm of the wanted one (1e-12 at least)."""
    assert found.keys() == wanted.keys()
    return max(
        float((found[n] - wanted[n]).norm() / wanted[n].norm().clamp_min(1e-12))
        for n in wanted
        if wanted[n].norm() > 1e-14 or found[n].norm() > 1e-14
    )
