"""Shards in lanes: the order is a pure function of (seed, step), whoever reads; every sample is accounted for."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from embedkit.config.recipe import DataConfig
from embedkit.data import TrainingRows
from embedkit.data.datasets.open import open_sources
from embedkit.data.images.decoding import Decoding, decode_batches, usual_threads
from embedkit.data.schema.rows import BadRow
from embedkit.data.sources.formats.webdataset import read_shard
from embedkit.data.sources.preflight import inspect_sources
from tests.data.helpers import contract, opened
from tests.helpers import image_data

SAMPLES, PER_SHARD, BATCH, LANES = 203, 20, 12, 4
FAULTS = image_data.one_in(SAMPLES, 20)


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eleven shards, the last one short, one sample in twenty spoilt."""
    return image_data.write_shards(tmp_path_factory.mktemp("lanes"), image_data.samples(SAMPLES, FAULTS), PER_SHARD)


def _opened(pattern: str, seed: int = 7, lanes: int = LANES, **settings: Any) -> TrainingRows:
    settings = {"on_bad_row": "skip", "shuffle_buffer": 60, **settings}
    source = {"path": pattern, "stream": True}
    return opened([source], "image texts", batch_size=BATCH, seed=seed, lanes=lanes, **settings)


def _steps(
    rows: TrainingRows, count: int, start: int = 0, rank: int = 0, world: int = 1, workers: int = 1
) -> list[Any]:
    """What decoded batches say: step, ids and places of good rows, ids and reasons of bad ones."""
    source = ((0, batch) for batch in rows.batches(0, start, rank, world))
    found = []
    settings = Decoding(16, workers, 50_000_000, skip=True)
    for _, batch in itertools.islice(decode_batches(source, settings, rows.where), count):
        skipped = [(bad.id, bad.place, bad.reason) for bad in batch.bad_rows]
        found.append((batch.step, batch.ids, batch.places, skipped))
    return found


def _joined(parts: list[list[Any]]) -> list[Any]:
    """The steps of several processes put together."""
    made = []
    for step in zip(*parts, strict=True):
        assert len({one[0] for one in step}) == 1
        made.append((step[0][0], *([x for one in step for x in one[place]] for place in (1, 2, 3))))
    return made


@pytest.mark.parametrize("world", [2, 3])
def test_processes_and_workers_decide_who_reads_and_nothing_else(pattern: str, world: int) -> None:
    rows = _opened(pattern)
    whole = [(s, i, p, sorted(bad)) for s, i, p, bad in _steps(rows, 20)]
    parts = [_steps(rows, 20, rank=rank, world=world, workers=3) for rank in range(world)]
    assert [(s, i, p, sorted(bad)) for s, i, p, bad in _joined(parts)] == whole


@pytest.mark.parametrize("start", [1, 4, 5, 16, 17, 33, 50])
def test_any_step_can_be_gone_to(pattern: str, start: int) -> None:
    rows = _opened(pattern)
    if not hasattr(test_any_step_can_be_gone_to, "whole"):
        test_any_step_can_be_gone_to.whole = _steps(rows, 54)  # type: ignore[attr-defined]
    whole: list[Any] = test_any_step_can_be_gone_to.whole  # type: ignore[attr-defined]
    assert _steps(_opened(pattern), 4, start) == whole[start : start + 4]


def test_the_seed_and_the_lanes_decide_the_order(pattern: str) -> None:
    first = _steps(_opened(pattern), 3)
    assert _steps(_opened(pattern), 3) == first
    assert _steps(_opened(pattern, seed=8), 3) != first
    assert _steps(_opened(pattern, lanes=2), 3) != first


def test_every_sample_is_drawn_and_accounted_for(pattern: str) -> None:
    rows = _opened(pattern, lanes=1, shuffle_buffer=29)  # 7 windows are one cycle of the only lane
    drawn: list[tuple[int, str | None]] = []
    for _, ids, places, skipped in _steps(rows, -(-SAMPLES // BATCH)):
        by_place = dict(zip(places, ((row_id, None) for row_id in ids), strict=True))
        by_place |= {place: (row_id, reason) for row_id, place, reason in skipped}
        assert sorted(by_place) == list(range(BATCH))
        drawn += [by_place[place] for place in range(BATCH)]
    once = drawn[:SAMPLES]
    assert len({row_id for row_id, _ in once}) == SAMPLES
    assert Counter(reason for _, reason in once if reason) == image_data.count(FAULTS)
    assert [row_id for row_id, _ in once] != sorted(row_id for row_id, _ in once)


# -- windows and cycles ---------------------------------------------------------------------------------------------


def _ids(rows: TrainingRows, count: int, start: int = 0) -> list[list[int]]:
    """Ids of the samples of each step, the bad ones last."""
    batches = itertools.islice(rows.batches(0, start), count)
    return [[int(row_id) for row_id in (*batch.ids, *(bad.id for bad in batch.bad_rows))] for batch in batches]


@pytest.mark.parametrize(
    ("lanes", "buffer", "wanted"),
    [
        (4, 60, "5ffa0d8dbd1d"),
        (1, 29, "9fdefb54c56c"),
        (3, 40, "a779dc85abed"),
        (4, 160, "4fb51c71f550"),  # a lane of exactly one window
        (1, 203, "28c9a2c243f4"),
    ],
)
def test_lanes_larger_than_their_window_keep_the_order_of_the_first_release(
    pattern: str, lanes: int, buffer: int, wanted: str
) -> None:
    """The hashes are those of the ids that 0.1.0 drew in sixty steps."""
    drawn = _ids(_opened(pattern, lanes=lanes, shuffle_buffer=buffer), 60)
    assert hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:12] == wanted


@pytest.mark.parametrize("buffer", [204, 10_000])
def test_a_window_ends_with_its_cycle(pattern: str, buffer: int) -> None:
    assert _ids(_opened(pattern, lanes=1, shuffle_buffer=buffer), 60) == _ids(
        _opened(pattern, lanes=1, shuffle_buffer=SAMPLES), 60
    )


def test_few_samples_are_drawn_once_a_cycle_and_read_once_a_cycle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedkit.data.datasets import sharded as lanes

    read: list[str] = []
    real = lanes.read_shard
    monkeypatch.setattr(lanes, "read_shard", lambda path, start=0: (read.append(path.name), real(path, start))[1])
    path = image_data.write_shards(tmp_path, image_data.samples(BATCH), BATCH)
    batches = _ids(_opened(path), 9)
    assert [len(set(batch)) for batch in batches] == [BATCH] * 9
    assert len({tuple(batch) for batch in batches}) > 1  # shuffled anew
    assert len(read) == 9


@pytest.mark.parametrize("start", [1, 2, 3, 7, 20, 41])
@pytest.mark.parametrize("buffer", [200, 10_000])  # windows of some lanes are cut, of all
def test_any_step_of_short_lanes_can_be_gone_to(pattern: str, start: int, buffer: int) -> None:
    whole = _ids(_opened(pattern, shuffle_buffer=buffer), 44)
    assert _ids(_opened(pattern, shuffle_buffer=buffer), 3, start) == whole[start : start + 3]


def test_a_shard_is_gone_into_behind_samples_whose_files_stand_apart(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a.txt", "b.txt", "a.cls", "c.txt", "d.txt", "e.txt"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"1"))
    whole = list(read_shard(tmp_path / "s.tar"))
    assert [isinstance(values, BadRow) for _, values in whole] == [False, False, True, False, False, False]
    for start in range(7):
        rest = list(read_shard(tmp_path / "s.tar", start))
        assert [number for number, _ in rest] == [number for number, _ in whole[start:]]


def test_a_process_opens_only_the_shards_of_its_lanes(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedkit.data.datasets import sharded as lanes

    read: list[str] = []
    real = lanes.read_shard
    monkeypatch.setattr(lanes, "read_shard", lambda path, start=0: (read.append(path.name), real(path, start))[1])
    opened_by = []
    for rank in range(2):
        read.clear()
        _steps(_opened(pattern), 40, rank=rank, world=2)
        opened_by.append(set(read))
    assert opened_by[0] and opened_by[1] and not opened_by[0] & opened_by[1]
    assert len(opened_by[0] | opened_by[1]) == -(-SAMPLES // PER_SHARD)


def test_resuming_reads_no_sample_before_its_window(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedkit.data.datasets import sharded as lanes

    first: list[int] = []
    real = lanes.read_shard

    def read(path: Path, start: int = 0) -> Any:
        first.append(start)
        return real(path, start)

    monkeypatch.setattr(lanes, "read_shard", read)
    _steps(_opened(pattern, lanes=1, shuffle_buffer=10), 1, start=14)  # 168 samples on: in the ninth of eleven shards
    assert len(first) <= 5  # its own and what is decoded ahead; eleven from the start
    assert first[0] > 0 or len(first) <= 4


def test_error_names_the_sample(pattern: str) -> None:
    rows = _opened(pattern)
    source = ((0, batch) for batch in rows.batches(0))
    decoded = itertools.islice(decode_batches(source, Decoding(16, 1), rows.where), 20)
    with pytest.raises(BadRow, match=r"s-\d{3}\.tar:\d+: "):
        list(decoded)


@pytest.mark.parametrize("kind", ["tar", "csv"])
def test_preflight_accounts_for_every_sample(kind: str, pattern: str, tmp_path: Path) -> None:
    missing = (3, 77)
    path = pattern if kind == "tar" else image_data.write_csv(tmp_path, image_data.samples(SAMPLES, FAULTS), missing)
    config = DataConfig.model_validate({"train": [{"path": path}], "on_bad_row": "skip"})
    progress: list[int] = []
    (report,) = inspect_sources(
        open_sources(config, contract("image texts")), Decoding(None, 2, 50_000_000), progress.append
    )
    wanted = image_data.count(FAULTS) + (Counter({"missing image": 2}) if kind == "csv" else Counter())
    assert report.bad == wanted
    assert report.read == SAMPLES == report.good + report.bad.total()
    assert progress[-1] == SAMPLES
    assert len(report.faults) == wanted.total() == len({fault["where"] for fault in report.faults})


@pytest.mark.parametrize("cores", [1, 3, 20])
def test_images_are_decoded_on_the_cores_that_the_process_may_use(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert Decoding().threads == usual_threads() == min(8, cores)
    assert Decoding(workers=12).threads == 12
