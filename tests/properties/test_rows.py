"""Training rows over files: each once an epoch on any number of processes, and the same order after every resume."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from embedkit.data import TrainingRows
from embedkit.data.datasets.samplers import SAMPLERS
from embedkit.data.schema.roles import ALIASES, ROLES, bind
from embedkit.errors import DataError
from tests.data.helpers import opened
from tests.properties.lines import own_line

TEXTS = st.integers(0, 25).map(lambda number: f"text {number}")
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "anchor": TEXTS,
            "positive": TEXTS,
            "label": st.integers(0, 3),
            "document_id": st.integers(0, 4),
            "position": st.integers(0, 9),
        }
    ),
    min_size=1,
    max_size=40,
)


@contextmanager
def rows_of(rows: list[dict[str, Any]], sampler: str, size: int, **more: Any) -> Iterator[TrainingRows]:
    """Training rows of a file with these rows."""
    more_roles = {"by-label": " label", "contiguous": " document_id position"}
    accepts = "positive" + more_roles.get(sampler, "")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"path": str(file), "columns": {name: name for name in ["anchor", *accepts.split()]}}
        try:
            found = opened([source], "anchor", accepts, batch_size=size, sampler=sampler, **more)
            list(found.batches(0))
        except DataError:  # fewer rows than the sampler needs for a batch
            reject()
        yield found


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@settings(max_examples=40)
@given(rows=ROWS, half=st.integers(1, 4), world=st.integers(1, 4), epoch=st.integers(0, 3), last=st.booleans())
def test_processes_share_an_epoch(
    sampler: str, rows: list[dict[str, Any]], half: int, world: int, epoch: int, last: bool
) -> None:
    with rows_of(rows, sampler, 2 * half, drop_last=last) as found:
        whole = list(found.batches(epoch))
        parts = [list(found.batches(epoch, rank=rank, world=world)) for rank in range(world)]
        assert len(whole) == found.steps_per_epoch
        for step, batch in enumerate(whole):
            pieces = [part[step] for part in parts]
            assert [i for piece in pieces for i in piece.ids] == batch.ids
            assert [row for piece in pieces for row in piece.rows] == batch.rows
            assert all(piece.size == len(batch.ids) == batch.size <= 2 * half for piece in pieces)
        ids = [i for batch in whole for i in batch.ids]
        assert len(set(ids)) == len(ids) and set(ids) <= set(range(len(rows)))
        assert all(
            rows[i]["anchor"] == row["anchor"] for batch in whole for i, row in zip(batch.ids, batch.rows, strict=True)
        )
        if not last and sampler in ("shuffled", "length", "contiguous"):
            assert sorted(ids) == list(range(len(rows)))
        elif sampler in ("shuffled", "length", "contiguous"):
            assert len(rows) - len(ids) < 2 * half


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@settings(max_examples=30)
@given(rows=ROWS, half=st.integers(1, 4), data=st.data())
def test_resuming_anywhere_and_twice_is_the_unbroken_order(
    sampler: str, rows: list[dict[str, Any]], half: int, data: st.DataObject
) -> None:
    with rows_of(rows, sampler, 2 * half) as found:
        for epoch in (0, 1):
            whole = [(batch.step, batch.ids) for batch in found.batches(epoch)]
            first = data.draw(st.integers(0, len(whole)))
            second = data.draw(st.integers(first, len(whole)))
            broken = whole[:first]
            broken += [(b.step, b.ids) for b in found.batches(epoch, first)][: second - first]
            broken += [(b.step, b.ids) for b in found.batches(epoch, second)]
            assert broken == whole


@settings(max_examples=60)
@given(rows=ROWS, half=st.integers(1, 4), epoch=st.integers(0, 3))
def test_no_text_stands_twice_in_a_batch(rows: list[dict[str, Any]], half: int, epoch: int) -> None:
    with rows_of(rows, "no-duplicates", 2 * half) as found:
        for batch in found.batches(epoch):
            texts = [text for row in batch.rows for text in {row["anchor"], row["positive"]}]
            assert len(texts) == len(set(texts))


@settings(max_examples=30)
@given(rows=ROWS, half=st.integers(1, 4))
def test_a_batch_holds_each_label_as_often_as_asked(rows: list[dict[str, Any]], half: int) -> None:
    with rows_of(rows, "by-label", 2 * half) as found:
        for batch in found.batches(0):
            labels = [row["label"] for row in batch.rows]
            assert all(labels.count(label) % 2 == 0 for label in labels)


WORDS = st.sampled_from(
    [
        *ROLES,
        "negative_1",
        "negative_2",
        "text_1",
        "text_02",
        "x",
        "id",
        "",
        *[n for names in ALIASES.values() for n in names],
    ]
) | st.text(max_size=8)
SETS = st.sets(st.sampled_from(sorted(ROLES)), max_size=4).map(frozenset)


@given(found=st.lists(WORDS, max_size=6, unique=True), requires=SETS, more=SETS, explode=st.booleans(), data=st.data())
def test_columns_are_bound_by_name_and_once(
    found: list[str], requires: frozenset[str], more: frozenset[str], explode: bool, data: st.DataObject
) -> None:
    mapping = data.draw(st.none() | st.dictionaries(st.sampled_from(found) if found else WORDS, WORDS, max_size=4))
    reads = requires | more
    with own_line() as refused:
        made = bind(found, mapping, requires=requires, reads=reads, where="t.csv", explode=explode)
    if refused:
        return
    assert requires <= made.roles
    columns = list(made.columns.values())
    assert set(columns) <= set(found) and len(set(columns)) == len(columns)
    if mapping is not None:
        assert {column: slot for slot, column in made.columns.items()} == mapping
    shuffled = data.draw(st.permutations(found))
    again = bind(shuffled, mapping, requires=requires, reads=reads, where="t.csv", explode=explode)
    assert (again.columns, again.roles) == (made.columns, made.roles)
