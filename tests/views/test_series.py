"""Views of sequences and vectors: what each leaves as it is, from its definition; chains of them on a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.data.vectors.sequences import Sequences
from embedkit.data.vectors.values import Vectors
from embedkit.errors import RecipeError, UserError
from embedkit.methods.base import View
from embedkit.views import Chain, views
from tests.views.test_chains import NUMBERS, random

X = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)


def changed(entry: Any, x: np.ndarray = X, seed: int = 0) -> np.ndarray:
    """A sequence after a view, in a batch of itself and its mirror image."""
    block = Sequences.of([x, x[::-1].copy()]) if x.ndim == 2 else Vectors(np.stack([x, -x]))
    return np.asarray(Chain.of(entry).apply(View(block, [0, 1]), [random(seed), random(seed + 99)]).inputs[0])


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_views_change_sequences_and_repeat(name: str) -> None:
    results = [changed(name, seed=seed) for seed in range(8)]
    assert all(np.array_equal(changed(name, seed=seed), x) for seed, x in enumerate(results))
    assert len({x.tobytes() for x in results}) > 1
    assert all(x.shape[1] == 4 and len(x) and x.dtype == np.float32 and np.isfinite(x).all() for x in results)
    for short in (X[:1], X[:2]):
        assert changed(name, short).shape[1] == 4 and len(changed(name, short))


def test_steps_keep_their_order_and_content() -> None:
    for name in ("step-dropout", "time-crop"):
        for seed in range(8):
            out = changed(name, seed=seed)
            rows = [int(np.flatnonzero((step == X).all(axis=1))[0]) for step in out]
            assert rows == sorted(set(rows))
            if name == "time-crop":
                assert rows == list(range(rows[0], rows[0] + len(rows))) and 6 <= len(rows) <= 12
    kept = np.mean([len(changed({"name": "step-dropout", "rate": 0.25}, seed=seed)) for seed in range(200)])
    assert abs(kept - 9) < 0.4
    out = changed({"name": "permutation", "parts": 3})
    starts = [int(np.flatnonzero((step == X).all(axis=1))[0]) for step in out[::4]]
    assert sorted(starts) == [0, 4, 8] and np.array_equal(np.sort(out, axis=0), np.sort(X, axis=0))


def test_another_speed_passes_through_the_same_line() -> None:
    line = np.linspace(0, 1, 9, dtype=np.float32)[:, None] * np.array([1, -2], np.float32)
    out = changed({"name": "resample", "least": 2.0, "most": 2.0}, line)
    assert np.allclose(out, np.linspace(0, 1, 18)[:, None] * [1, -2], atol=1e-6)
    lengths = {len(changed("resample", seed=seed)) for seed in range(40)}
    assert lengths == set(range(10, 16))


def test_columns_change_places_at_all_steps_alike() -> None:
    for x in (X, X[0]):
        out = changed({"name": "channel-swap", "share": 1.0}, x, seed=3)
        order = [int(np.flatnonzero(np.atleast_2d(x)[0] == value)[0]) for value in np.atleast_2d(out)[0]]
        assert np.array_equal(out, x[..., order]) and sorted(order) == [0, 1, 2, 3] and order != [0, 1, 2, 3]


def test_a_mixture_lies_between_the_row_and_its_partner() -> None:
    one, two, odd = X[:6], X[6:9], X[9:]
    block = Sequences.of([one, two, odd])
    out = Chain.of("mixup").apply(View(block, [0, 1, 2]), [random(i) for i in range(3)]).inputs
    assert [len(x) for x in out] == [6, 3, 3] and np.array_equal(out[2], odd)
    share = (out[1] - one[[0, 2, 5]])[0] / (two - one[[0, 2, 5]])[0]  # ends of a line that is brought to 3 steps
    assert np.allclose(share, share[0], atol=1e-4) and 0.5 <= share[0] <= 1.0
    assert changed("mixup", X[0]).shape == (4,)


def test_chains_run_in_order_and_leave_the_encoder_its_part() -> None:
    chain = Chain.of(
        [{"name": "time-crop", "least": 0.5, "most": 0.5}, {"name": "noise", "deviation": 0.1}, "permutation"]
    )
    view = chain.apply(View(Sequences.of([X]), [0]), [random(1)])
    generator = random(1)
    crop = views["time-crop"](0.5, 0.5).change(X, generator)  # type: ignore[misc]
    assert np.array_equal(view.inputs[0], views["permutation"]().change(crop, generator))  # type: ignore[misc]
    assert view.settings == {"noise": 0.1} and isinstance(view.inputs, Sequences)
    plain = View(Vectors(X), list(range(12)))
    assert Chain.of({"name": "noise", "deviation": 0.1}).apply(plain, []).inputs is plain.inputs


@pytest.mark.parametrize(
    ("positive", "path", "told"),
    [("word-deletion", "s.npz", "a step changes texts, and the rows have a sequence"),
     ("time-crop", "v.npz", "a step changes sequences, and the rows have a vector"),
     ("mixup", "t.jsonl", "a step changes vectors, and the rows have a text")],
)  # fmt: skip
def test_steps_for_other_kinds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, positive: str, path: str, told: str
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    np.savez("s.npz", anchor=np.zeros((16, 4, 2)) + np.arange(16)[:, None, None])
    np.savez("v.npz", anchor=np.eye(16))
    Path("t.jsonl").write_text("".join(f'{{"anchor": "text {i}"}}\n' for i in range(16)))
    kinds = {"s.npz": {"kind": "sequence"}, "v.npz": {"kind": "feature"}}
    model = kinds.get(path, {"kind": "static", "tokenizer": "builtin", "dim": 4})
    given = {
        "name": "x", "method": {"name": "views", "positive": [positive]}, "model": model,
        "data": {"train": [{"path": path}]},
        "train": {"batch_size": 8, "max_steps": 1, "output": "run", "holdout": 0.0},
    }  # fmt: skip
    with pytest.raises(RecipeError, match=told):
        embedkit.train(given)


def test_a_range_the_wrong_way_round_is_refused() -> None:
    for name in ("time-crop", "resample"):
        with pytest.raises(UserError, match=r"least 0\.9 is above most 0\.85"):
            Chain.of({"name": name, "least": 0.9, "most": 0.85})
