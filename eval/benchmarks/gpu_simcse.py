"""Section (f) of gpu.py: a raw backbone made by `mlm` in some minutes, and SimCSE on it; STS before and after.

Texts and STS pairs are embedkit's own (`builtin:sentences`, the suite `builtin-sts`), whose scores say that training
works and nothing about real text; `--sts FOLDER` scores the suite `sts` of that folder too.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from gpu_common import Enough, Section, Size, Stopwatch, Watched, free

WARM, TRIAL, SHARE = 5, 0.03, 0.8
"""Steps before the trial of the step time, its share of the time of the backbone, and that time's of what is left."""


def backbone_recipe(size: Size, steps: int) -> dict[str, Any]:
    """Masked words on built-in sentences, as the recipe `mlm-small` has it."""
    return {
        "name": "backbone", "method": {"name": "mlm", "rate": 0.15}, "seed": 42,
        "model": {"config": {"model_type": "bert", **size.mlm_bert}, "tokenizer": "builtin", "pooling": "mean",
                  "max_length": 64, "normalize": False},
        "data": {"train": [{"path": "builtin:sentences"}]},
        "train": {"max_steps": steps, "batch_size": size.mlm_batch, "lr": 5e-4, "schedule": "linear", "warmup": 0.06,
                  "weight_decay": 0.01, "save_every": 10**7, "log_every": max(1, steps // 20)},
    }  # fmt: skip


def backbone(size: Size, device: torch.device, section: Section, root: Path) -> Path:
    """The folder of a backbone that was trained for about ``size.mlm_seconds``, if there is time: as many steps as
    a trial says."""
    from embedkit.training import train

    wanted = min(size.mlm_seconds, SHARE * section.budget.left)
    watch = Stopwatch(device, section.budget, WARM, limit=TRIAL * wanted)
    with contextlib.suppress(Enough):
        train(backbone_recipe(size, 10**6), output=root / "trial", progress=watch)
    free()
    steps = max(WARM, int(wanted * watch.done / watch.seconds))
    begun = time.perf_counter()
    result = train(backbone_recipe(size, steps), output=root / "backbone", progress=Watched(section.budget))
    section.put(
        "mlm", what="mlm", steps=result.steps, seconds=time.perf_counter() - begun, first_loss=result.losses[0],
        last_loss=result.losses[-1],
    )  # fmt: skip
    return result.output


def suites(sts: str | None) -> dict[str, Any]:
    """The suites that are scored, by name."""
    from embedkit.evaluation import open_suite

    found = {"builtin-sts": open_suite("builtin-sts")}
    return found | ({"sts": open_suite("sts", sts)} if sts else {})


def scores(model: Any, opened: dict[str, Any]) -> dict[str, float]:
    """Every suite's average, Spearman x 100."""
    found = {name: suite.run(model).scores for name, suite in opened.items()}
    return {name: float(values.get("avg", next(iter(values.values())))) for name, values in found.items()}


def simcse(size: Size, device: torch.device, section: Section, sts: str | None = None) -> None:
    """Section (f)."""
    from embedkit.formats import load
    from embedkit.training import train

    opened = suites(sts)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        raw = backbone(size, device, section, root)
        for pooling in ("cls", "mean"):
            section.put(pooling, what=f"before, {pooling}", **scores(load(raw, device=device, pooling=pooling), opened))
            section.budget.check()
        overrides = [
            f"model.name={raw}", "data.train=[{path: 'builtin:sentences'}]", "evaluation=null", "train.epochs=null",
            f"train.max_steps={size.simcse_steps}", "train.save_every=10000000",
        ]  # fmt: skip
        begun = time.perf_counter()
        result = train("simcse-unsup", overrides, output=root / "simcse", progress=Watched(section.budget))
        section.put(
            "after", what="after simcse-unsup", steps=result.steps, seconds=time.perf_counter() - begun,
            **scores(load(result.output, device=device), opened),
        )  # fmt: skip
