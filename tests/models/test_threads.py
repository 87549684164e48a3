"""Work shared by threads, and encoding by it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from embedkit.errors import NonFiniteError
from embedkit.models.encode import encoding
from embedkit.system.threads import by_threads

from ..helpers import tiny


@pytest.fixture
def four() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def number_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.usefixtures("four")
def test_each_worker_has_its_share_of_torch_threads_and_the_caller_keeps_its_own() -> None:
    barrier = threading.Barrier(2, timeout=60)

    def work(item: int) -> tuple[int, str]:
        barrier.wait()
        return torch.get_num_threads(), threading.current_thread().name

    results = list(by_threads(work, list(range(6)), workers=2))
    assert {threads for threads, _ in results} == {2} and len({name for _, name in results}) == 2
    assert torch.get_num_threads() == 4 and number_of_a_new_thread() == 4


@pytest.mark.usefixtures("four")
def test_callers_at_once_do_not_change_each_other() -> None:
    def call(numbers: list[int]) -> None:
        for _ in range(20):
            list(by_threads(lambda _: numbers.append(torch.get_num_threads()), [1, 2, 3], workers=2))
        numbers.append(torch.get_num_threads())

    seen: list[list[int]] = [[], [], []]
    threads = [threading.Thread(target=call, args=(numbers,)) for numbers in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(set(numbers[:-1]) == {2} and numbers[-1] == 4 for numbers in seen)
    assert number_of_a_new_thread() == 4


def test_every_item_is_done_once_and_one_worker_is_the_caller() -> None:
    assert sorted(by_threads(lambda item: item, list(range(100)), workers=7)) == list(range(100))
    names = list(by_threads(lambda _: threading.current_thread(), [1, 2], workers=1))
    assert set(names) == {threading.current_thread()}
    assert list(by_threads(lambda item: item, [], workers=4)) == []


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_ends_it_and_no_worker_is_left(kind: type[BaseException]) -> None:
    count = []

    def work(item: int) -> int:
        count.append(item)
        if item == 1:
            raise kind("here")
        time.sleep(0.01)
        return item

    before = threading.active_count()
    with pytest.raises(kind, match="here"):
        list(by_threads(work, list(range(1_000)), workers=2))
    assert len(count) < 100 and threading.active_count() == before


def test_who_stops_listening_stops_the_workers() -> None:
    count: list[int] = []
    before = threading.active_count()
    results = by_threads(lambda item: (time.sleep(0.005), count.append(item)), list(range(1_000)), workers=2)
    next(results)
    assert threading.active_count() == before + 2
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before and len(count) < 100


@pytest.mark.usefixtures("four")
def test_vectors_are_equal_with_any_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.text_encoder()
    texts = [" ".join(tiny.SENTENCES[n % 7].split() * (1 + n % 5)) + f" {n}" for n in range(300)]
    vectors = []
    for workers in (1, 2, 4):
        monkeypatch.setattr(encoding, "workers_for", lambda _, workers=workers: workers)
        torch.set_num_threads(workers)
        vectors.append(model.encode(texts))
    assert np.array_equal(vectors[0], vectors[1]) and np.array_equal(vectors[0], vectors[2])


@pytest.mark.usefixtures("four")
def test_a_bad_vector_is_named_by_its_place_and_progress_counts_up() -> None:
    model = tiny.text_encoder()
    counts: list[int] = []
    texts = [f"the dog {n}" for n in range(400)]
    model.encode(texts, progress=lambda count, total: counts.append(count))
    assert counts == sorted(counts) and counts[-1] == 400 and len(counts) > 1
    row = model.prepare(["guitar"]).rows()[0][1]
    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight[row] = torch.nan
    with pytest.raises(NonFiniteError, match=r"inputs\[400\]"):
        model.encode([*texts, "a guitar"])
    assert torch.get_num_threads() == 4
