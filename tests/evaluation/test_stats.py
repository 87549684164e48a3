"""Statistics against scipy, scikit-learn and plain statements."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import average_precision_score, roc_auc_score

from embedkit.evaluation.core.stats import (
    STATISTICS,
    Samples,
    bootstrap,
    cosine_pairs,
    draw_weights,
    generator,
    interval,
    midranks,
    pearson,
    spearman,
    unit_rows,
)


@pytest.mark.parametrize("seed", range(20))
def test_correlations_equal_scipy_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, 50) / 2, np.round(rng.standard_normal(50), 1)
    assert np.array_equal(midranks(x), scipy_stats.rankdata(x))
    assert spearman(x, y) == pytest.approx(scipy_stats.spearmanr(x, y).statistic, abs=1e-12)
    assert pearson(x, y) == pytest.approx(scipy_stats.pearsonr(x, y).statistic, abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_constant_input_has_no_correlation() -> None:
    assert np.isnan(spearman(np.ones(5), np.arange(5)))


def test_cosine_is_zero_for_a_zero_vector_only() -> None:
    first, second = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]), np.array([[4.0, 3.0], [1.0, 1.0], [-2.0, 0.0]])
    assert cosine_pairs(first, second).tolist() == pytest.approx([0.96, 0.0, -1.0])


def test_unit_rows_keep_type_and_zero_rows() -> None:
    found = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -0.25]], dtype=np.float32))
    assert found.dtype == np.float32
    assert found == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]]))


def test_weights_of_a_correlation_stand_for_repeated_samples() -> None:
    rng = np.random.default_rng(0)
    x, y, weights = rng.standard_normal(30), rng.standard_normal(30), rng.integers(0, 4, 30)
    repeated = pearson(np.repeat(x, weights), np.repeat(y, weights))
    assert pearson(x, y, weights) == pytest.approx(repeated, abs=1e-12)
    assert np.isnan(pearson(x, np.full(30, 2.0), weights))


@pytest.mark.filterwarnings("error")
def test_average_precision_needs_something_relevant() -> None:
    gold, prediction = np.array([1.0, 0.0, 0.0]), np.array([0.5, 0.5, 0.1])
    value = Samples("average_precision", {"gold": gold, "prediction": prediction}).build()
    assert value(np.ones(3)) == 0.5
    assert value(np.array([0.0, 2.0, 1.0])) != value(np.ones(3))
    assert np.isnan(value(np.array([0.0, 2.0, 1.0])))
    last = Samples("average_precision", {"gold": gold[::-1], "prediction": np.array([0.9, 0.5, 0.1])}).build()
    assert last(np.ones(3)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("subset", [None, [0, 0, 0, 0, 1, 1, 1]])
def test_any_sample_can_be_drawn_again(subset: list[int] | None) -> None:
    values = {"gold": np.arange(7.0), "prediction": np.arange(7.0)}
    if subset is not None:
        values["subset"] = np.array(subset)
    rng = np.random.default_rng(0)
    drawn = np.array([draw_weights(Samples("spearman", values), rng) for _ in range(2000)])
    assert (drawn.sum(axis=1) == 7).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)
    sizes = np.full(7, 7) if subset is None else np.array([4, 4, 4, 4, 3, 3, 3])
    assert drawn.var(axis=0) == pytest.approx(1 - 1 / sizes, abs=0.15)  # of a binomial number


def test_an_interval_leaves_out_draws_without_a_value() -> None:
    values = np.array([np.nan, *range(101), np.nan])
    assert interval(values) == pytest.approx((2.5, 97.5))
    assert interval(values, 0.5) == pytest.approx((25, 75))


def _cases(rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    gold, prediction = rng.integers(0, 5, 40).astype(float), np.round(rng.standard_normal(40), 1)
    subset = rng.integers(0, 3, 40)
    return {
        "spearman": {"gold": gold, "prediction": prediction},
        "spearman/mean": {"gold": gold, "prediction": prediction, "subset": subset},
        "spearman/wmean": {"gold": gold, "prediction": prediction, "subset": subset, "by_size": np.ones(40)},
        "mean": {"value": prediction},
        "average_precision": {"gold": (gold > 2).astype(float), "prediction": prediction},
        "auroc": {"gold": (gold > 2).astype(float), "prediction": prediction},
    }


def _naive(name: str, values: dict[str, np.ndarray]) -> float:
    """The same figure from the samples written out one by one."""
    if name == "mean":
        return float(np.mean(values["value"]))
    if name == "average_precision":
        return float(average_precision_score(values["gold"], values["prediction"]))
    if name == "auroc":
        return float(roc_auc_score(values["gold"], values["prediction"]))
    groups = values.get("subset", np.zeros(len(values["gold"])))
    parts, sizes = [], []
    for group in np.unique(groups):
        rows = groups == group
        parts.append(scipy_stats.spearmanr(values["gold"][rows], values["prediction"][rows]).statistic)
        sizes.append(rows.sum())
    return float(np.average(parts, weights=sizes if "by_size" in values else None))


@pytest.mark.parametrize("name", ["spearman", "spearman/mean", "spearman/wmean", "mean", "average_precision", "auroc"])
@pytest.mark.parametrize("seed", range(5))
def test_weighted_statistic_equals_the_statistic_of_the_repeated_samples(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = _cases(rng)[name]
    samples = Samples(name.split("/")[0], values)
    weights = draw_weights(samples, rng)
    rows = np.repeat(np.arange(40), weights.astype(int))
    drawn = {key: column[rows] for key, column in values.items()}
    assert len(rows) == 40
    assert samples.build()(weights) == pytest.approx(_naive(name, drawn), abs=1e-12)
    assert samples.build()(np.ones(40)) == pytest.approx(_naive(name, values), abs=1e-12)


def test_every_statistic_is_tested() -> None:
    assert set(STATISTICS) == {name.split("/")[0] for name in _cases(np.random.default_rng(0))}


def test_draws_within_subsets_keep_their_sizes() -> None:
    subset = np.array([0] * 7 + [1] * 3)
    samples = Samples("spearman", {"gold": np.arange(10.0), "prediction": np.arange(10.0), "subset": subset})
    for seed in range(10):
        weights = draw_weights(samples, np.random.default_rng(seed))
        assert (weights[:7].sum(), weights[7:].sum()) == (7, 3)


def test_bootstrap_interval_of_a_mean_is_the_textbook_one() -> None:
    values = np.random.default_rng(3).standard_normal(400)
    low, high = interval(bootstrap(Samples("mean", {"value": values}), 4000, generator(0, "task")))
    error = values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_generators_depend_on_seed_and_name() -> None:
    first = generator(0, "a").integers(0, 2**31, 4).tolist()
    assert first == generator(0, "a").integers(0, 2**31, 4).tolist()
    assert first != generator(1, "a").integers(0, 2**31, 4).tolist()
    assert first != generator(0, "b").integers(0, 2**31, 4).tolist()
