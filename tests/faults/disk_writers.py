"""Everything in embedkit that writes a file or folder, one function each, for cases that make writing fail."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

Writer = Callable[[Path, int], Any]
"""Writes below a folder something that depends on a number, so that an older version differs from a newer one."""


@functools.cache
def _text(seed: int) -> Any:
    from tests.helpers import tiny

    return tiny.text_encoder("bert", seed=seed)


@functools.cache
def _dual(seed: int) -> Any:
    from tests.helpers import dual

    return dual.dual("simcse", "vit", seed=seed)


@functools.cache
def _clip(number: int) -> Any:
    from tests.helpers import dual

    return dual.dual("clip", "clip", seed=number, clip=True, cleaning="lower")


@functools.cache
def _report(seed: int) -> Any:
    from embedkit.evaluation import evaluate

    return evaluate(_text(seed), "builtin-sts", resamples=0, name=f"model {seed}")


def _save(folder: Path, number: int) -> None:
    _text(number).save(folder / "model", overwrite=True)


def _save_static(folder: Path, number: int) -> None:
    import torch

    from embedkit.models.modules.static import StaticEncoder
    from tests.helpers import tiny

    torch.manual_seed(number)
    StaticEncoder(tiny.tokenizer(), 64 + number).save(folder / "static", overwrite=True)


def _save_dual(folder: Path, number: int) -> None:
    _dual(number).save(folder / "dual", overwrite=True)


def _export(format: str, model: Callable[[int], Any], folder: Path, number: int) -> None:
    import embedkit

    embedkit.export(model(number), folder / "export", format=format, overwrite=True, samples=2)


def _encode(suffix: str, folder: Path, number: int) -> None:
    from embedkit.models import encode_file

    source = folder.parent / f"in-{number}.txt"
    source.write_text("".join(f"the dog number {i} runs\n" for i in range(200)))
    encode_file(_text(number), source, folder / f"out{suffix}", block_rows=80, overwrite=True)


def _index(folder: Path, number: int) -> None:
    from embedkit.retrieval.build import build_index

    texts = [f"text {number} of {row}" for row in range(400)]
    build_index(texts, folder / "index", _text(0), overwrite=True)


def _checkpoint(folder: Path, number: int) -> None:
    import torch

    from embedkit.training.state.checkpoint import CheckpointStore

    tensors = {"weights": {"w": torch.full((5000,), float(number))}, "random": {"cpu": torch.zeros(5000)}}
    CheckpointStore(folder / "checkpoints").save(1 + number, tensors, {"state": {"n": number}}, {"recipe.yaml": "x"})


def _durable(folder: Path, number: int) -> None:
    from embedkit.system.disk import write_durably

    write_durably(folder / "result.json", json.dumps([number] * 4000).encode(), "the result")


def _json(folder: Path, number: int) -> None:
    from embedkit.evaluation import save_reports

    save_reports(folder / "scores.json", [_report(number)])


def _html(folder: Path, number: int) -> None:
    from embedkit.evaluation import write_html

    write_html(folder / "report.html", [_report(number)])


def _card(folder: Path, number: int) -> None:
    from embedkit.evaluation import write_card

    place = folder / "card"
    if not (place / "embedkit.json").exists():
        place.mkdir()
        (place / "embedkit.json").write_text(json.dumps({"kind": "text", "spec": {"note": "n" * 6000}}))
    write_card(place, [], name=f"model {number}")


def _kept_report(folder: Path, number: int) -> None:
    from embedkit.evaluation.report.card import keep_report

    keep_report(folder, 1, _report(number))


def _command_json(folder: Path, number: int) -> None:
    from embedkit.cli.output import write_json

    write_json(str(folder / "command.json"), {"values": [number] * 4000})


def _cache(folder: Path, number: int) -> None:
    from embedkit.evaluation import EmbeddingCache

    keys = [bytes([i, number] * 8) for i in range(100)]
    EmbeddingCache(folder / "cache").put("model", None, keys, np.full((100, 32), float(number), np.float32))


def _ledger(folder: Path) -> Any:
    from embedkit.training.parallel.distributed import World
    from embedkit.training.state.sample_accounting import Ledger

    return Ledger(folder, World(), list_rows=True)


def _quarantine(folder: Path, number: int) -> None:
    from embedkit.data.images.decoding import Skipped

    bad = Skipped(number, number, "rows.csv:7", "damaged image", "x" * 9000)
    _ledger(folder).add(number, SimpleNamespace(bad_rows=[bad]))


def _samples(folder: Path, number: int) -> None:
    rows = SimpleNamespace(summary=lambda: {"sources": []})
    skipped = {f"reason {i}": number for i in range(500)}
    _ledger(folder).write(number, [{"trained": 1, "skipped": skipped}], rows)


def _lock(folder: Path, number: int) -> None:
    from embedkit.system.disk import FolderLock

    FolderLock(folder / f"run-{number}", "wait").release()


WRITERS: dict[str, Writer] = {
    "checkpoint": _checkpoint,
    "recipe, result, log after a resume": _durable,
    "lock": _lock,
    "samples.json": _samples,
    "quarantine.jsonl": _quarantine,
    "model": _save,
    "static model": _save_static,
    "dual model": _save_dual,
    "encode to npy": functools.partial(_encode, ".npy"),
    "encode to parquet": functools.partial(_encode, ".parquet"),
    "index": _index,
    "scores as JSON": _json,
    "HTML report": _html,
    "model card": _card,
    "evaluation of a run": _kept_report,
    "--json of a command": _command_json,
    "embedding cache": _cache,
    "export to sentence-transformers": functools.partial(_export, "sentence-transformers", _text),
    "export to transformers": functools.partial(_export, "transformers", _text),
    "dual export to sentence-transformers": functools.partial(_export, "sentence-transformers", _clip),
    "dual export to transformers": functools.partial(_export, "transformers", _clip),
}
"""Writers that take a moment."""


SLOW_WRITERS: dict[str, Writer] = {
    "export to onnx": functools.partial(_export, "onnx", _text),
    "dual export to onnx": functools.partial(_export, "onnx", _clip),
    "dual export to open_clip": functools.partial(_export, "open_clip", _clip),
    "dual export to clip": functools.partial(_export, "clip", _clip),
}
"""Writers that compute for many seconds first."""

APPENDING = ("quarantine.jsonl",)
"""Writers that append a line: half of one may stay behind a full disk, and a resumed run drops it."""
