"""The tasks that look into a model, each against a small statement of its own, numpy loops or scikit-learn."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from embedkit.config.recipe_io import load_recipe
from embedkit.data.builtin.sentences import rows as builtin_rows
from embedkit.errors import EmbedkitError
from embedkit.evaluation import evaluate, open_suite
from embedkit.evaluation.core.stats import Samples, unit_rows
from embedkit.evaluation.measures.analogies import EPSILON, pairing_consistency
from embedkit.evaluation.measures.attention import attention_measures
from embedkit.evaluation.measures.covariance import covariance_operator
from embedkit.evaluation.measures.probes import balanced_order, class_means, halves
from embedkit.evaluation.tasks.analysis.attention import attention_of_layers
from embedkit.evaluation.tasks.analysis.tokens import token_cosines
from embedkit.factory import build
from tests.evaluation.toys import BagOfWords, Fixed, write_tsv


def table_of(vectors: np.ndarray, **columns: list[Any]) -> tuple[Fixed, dict[str, list[Any]]]:
    """A model that gives the vectors, and rows of texts with further columns."""
    texts = [f"text {number}" for number in range(len(vectors))]
    return Fixed(dict(zip(texts, vectors.tolist(), strict=True))), {"text": texts, **columns}


def small_encoder() -> Any:
    """SimCSE's encoder in smoke size, which has a train-only head."""
    torch.manual_seed(3)
    return build(load_recipe("simcse-unsup", smoke=True).model)


def sentences(count: int) -> list[str]:
    return [row["anchor"] for row in itertools.islice(builtin_rows("sentences"), count)]


def test_auroc_is_scikit_learns_with_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    gold, prediction = rng.integers(0, 2, 60), rng.integers(0, 9, 60) / 4
    weights = rng.integers(0, 4, 60)
    statistic = Samples("auroc", {"gold": gold, "prediction": prediction}).build()
    expected = roc_auc_score(np.repeat(gold, weights), np.repeat(prediction, weights))
    assert statistic(weights.astype(float)) == pytest.approx(expected, abs=1e-12)
    two = Samples("auroc", {"gold": gold, "prediction": prediction, "subset": np.arange(60) % 2}).build()
    parts = [roc_auc_score(gold[place::2], prediction[place::2]) for place in (0, 1)]
    assert two(np.ones(60)) == pytest.approx(np.mean(parts), abs=1e-12)


def test_curve_of_labels_is_the_mean_over_draws_of_plain_logistic_regressions() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 90)
    x = rng.standard_normal((90, 4)) + 0.7 * np.eye(4)[y]
    model, data = table_of(x, label=[f"c{label}" for label in y], split=["train"] * 60 + ["test"] * 30)
    settings = {"curve": [6, 0.5, 1.0], "draws": 3, "mean_classifier": True}
    metrics = evaluate(model, "own-classification", data, settings=settings, resamples=0).tasks["data"].metrics
    assert {"accuracy_6_rows", "accuracy_30_rows", "accuracy_30_rows_std", "accuracy_60_rows"} <= set(metrics)
    x32 = x.astype(np.float32).astype(float)
    whole = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(x32[:60], y[:60])
    assert metrics["accuracy_60_rows"] == pytest.approx(100 * whole.score(x32[60:], y[60:]), abs=1e-9)
    assert metrics["accuracy_60_rows_std"] == 0
    means = [x32[:60][y[:60] == label].mean(axis=0) for label in range(3)]
    votes = [int(np.argmax([row @ mean for mean in means])) for row in x32[60:]]
    assert metrics["mean_classifier_accuracy"] == pytest.approx(100 * np.mean(votes == y[60:]))


def test_balanced_order_begins_with_every_class_and_keeps_the_shares() -> None:
    y = np.array([0] * 80 + [1] * 15 + [2] * 5)
    order = balanced_order(y, np.random.default_rng(4))
    assert sorted(order.tolist()) == list(range(100)) and sorted(y[order[:3]].tolist()) == [0, 1, 2]
    for count in (20, 40, 60, 80):
        shares = np.bincount(y[order[:count]], minlength=3)
        assert np.abs(shares - count * np.array([0.8, 0.15, 0.05])).max() <= 2
    first, second = halves(y, np.random.default_rng(4))
    assert sorted([*first, *second]) == list(range(100)) and np.bincount(y[first]).tolist() == [40, 8, 3]


def test_class_means_knows_no_bias() -> None:
    train = np.array([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0]]), np.array([0, 0, 1])
    assert class_means(train, np.array([[1.0, 2.0], [1.0, 4.0]])).tolist() == [0, 1]


def test_domain_shift_tells_a_cue_that_turns_round_from_one_that_stays() -> None:
    label = np.tile([0, 1], 20)
    domain = np.repeat(["news", "web"], 20)
    turns = np.where(domain == "news", label, 1 - label) * 2.0 - 1
    noise = np.random.default_rng(0).standard_normal((40, 2)) * 0.05
    for vectors, outside in (
        (np.stack([turns, noise[:, 0]], 1), 0.0),
        (np.stack([label * 2.0 - 1, turns * 0], 1), 100.0),
    ):
        model, data = table_of(vectors + noise, label=label.tolist(), domain=domain.tolist())
        task = evaluate(model, "own-domains", data, resamples=50).tasks["data"]
        assert task.score == outside and task.metrics["accuracy_in"] == 100.0
        assert task.details["matrix"]["news"] == {"news": 100.0, "web": outside} and task.interval is not None
        assert task.metrics["drop"] == 100.0 - outside


def test_feature_suppression_sets_the_hard_attribute_beside_the_easy_one() -> None:
    rng = np.random.default_rng(0)
    easy, hard = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    vectors = np.stack([easy * 4.0 - 2, rng.standard_normal(80)], axis=1)
    settings = {"easy": "colour", "hard": "shape", "folds": 4}
    model, data = table_of(vectors, colour=easy.tolist(), shape=hard.tolist())
    metrics = evaluate(model, "own-attributes", data, settings=settings, resamples=0).tasks["data"].metrics
    most = max(np.mean(hard), 1 - np.mean(hard)) * 100
    assert metrics["easy_accuracy"] == 100.0 and metrics["hard_accuracy"] < 70
    assert metrics["hard_gain"] == pytest.approx((metrics["hard_accuracy"] - most) / (100 - most))
    assert metrics["suppression"] == pytest.approx(1 - metrics["hard_gain"])
    kept, _ = table_of(np.stack([easy * 4.0 - 2, hard * 4.0 - 2], axis=1))
    assert evaluate(kept, "own-attributes", data, settings=settings, resamples=0).main == 100.0


def test_probe_behind_the_head_is_the_probe_of_its_outputs() -> None:
    model, texts = small_encoder(), sentences(60)
    labels = [str("the" in text.split()[0]) for text in texts]
    data = {"text": texts, "label": labels}
    metrics = evaluate(model, "own-head", data, settings={"folds": 3}, resamples=0).tasks["data"].metrics
    layer = model.layers[0]
    with torch.no_grad():
        before = model.encode(texts)
        after = layer(torch.from_numpy(before)).numpy()
    expected = []
    for vectors in (before, after):
        known = Fixed(dict(zip(texts, vectors.tolist(), strict=True)))
        expected.append(evaluate(known, "own-classification", data, settings={"folds": 3}, resamples=0).main)
    assert metrics["accuracy"] == pytest.approx(expected[0])
    assert metrics["accuracy_behind_1"] == pytest.approx(expected[1])
    assert metrics["loss_of_head"] == pytest.approx(expected[0] - expected[1])


def test_anomaly_is_the_auroc_of_the_mean_distance_to_the_nearest_normal_rows() -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 60)
    x = (rng.standard_normal((60, 5)) + 0.8 * y[:, None]).astype(np.float32)
    model, data = table_of(x, label=["ok" if label else "odd" for label in y], split=["train"] * 30 + ["test"] * 30)
    task = evaluate(model, "own-anomaly", data, settings={"normal": "ok", "neighbours": 3}, resamples=20).tasks["data"]
    unit = unit_rows(x.astype(float))
    far = [np.mean(sorted(1 - row @ unit[:30][y[:30] == 1].T)[:3]) for row in unit[30:]]
    assert task.score == pytest.approx(100 * roc_auc_score(y[30:] == 0, far), abs=1e-6) and task.interval is not None
    both = evaluate(model, "own-anomaly", data, resamples=0).tasks["data"]
    assert set(both.details["auroc_by_normal"]) == {"ok", "odd"}
    assert both.score == pytest.approx(np.mean(list(both.details["auroc_by_normal"].values())))


def test_anomaly_without_splits_stores_one_half_of_each_label() -> None:
    model, data = table_of(np.eye(6)[[0, 0, 0, 0, 1, 1]], label=["ok"] * 4 + ["odd"] * 2)
    task = open_suite("own-anomaly", data, settings={"normal": "ok"}).tasks[0]
    assert task.data["stored"] == task.data["rows"] == 3 and "one half" in task.notes[-1]
    assert evaluate(model, "own-anomaly", data, settings={"normal": "ok"}, resamples=0).main == 100.0


GOOGLE = ": gender\nman king woman queen\nking man queen woman\n: size\ncat cats dog dogs\n"


def test_analogies_are_those_of_plain_loops(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text(GOOGLE)
    words = ["man", "king", "woman", "queen", "cat", "cats", "dog", "dogs"]
    vectors = np.random.default_rng(5).standard_normal((8, 3))
    model = Fixed(dict(zip(words, vectors.tolist(), strict=True)))
    task = evaluate(model, "own-analogies", tmp_path / "q.txt", resamples=0).tasks["q"]
    unit = dict(zip(words, unit_rows(vectors.astype(np.float32).astype(float)), strict=True))
    hits: dict[str, list[bool]] = {"3cosadd": [], "3cosmul": []}
    for line in GOOGLE.splitlines():
        if line.startswith(":"):
            continue
        a, b, c, d = line.split()
        rest = [word for word in words if word not in (a, b, c)]
        add = {word: unit[word] @ (unit[b] - unit[a] + unit[c]) for word in rest}
        near = {one: {word: (unit[word] @ unit[one] + 1) / 2 for word in rest} for one in (a, b, c)}
        product = {word: near[b][word] * near[c][word] / (near[a][word] + EPSILON) for word in rest}
        for name, scores in (("3cosadd", add), ("3cosmul", product)):
            hits[name].append(max(scores, key=lambda word: scores[word]) == d)
    for name, values in hits.items():
        assert task.metrics[name] == pytest.approx(100 * np.mean(values))
    assert list(task.details["relations"]) == ["gender", "size"]


def test_analogies_of_a_folder_of_bats(tmp_path: Path) -> None:
    for name, lines in {
        "1/I01 [noun].txt": "cat\tcats\ndog\tdogs/hounds\n",
        "2/D01 [verb].txt": "do\tdoer\nsee\tseer\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(lines)
    questions = open_suite("own-analogies", tmp_path).tasks[0].questions
    assert [(q.relation, q.a, q.b, q.c, q.answers) for q in questions][:2] == [
        ("I01 [noun]", "cat", "cats", "dog", ("dogs", "hounds")),
        ("I01 [noun]", "dog", "dogs", "cat", ("cats",)),
    ]
    table = {"a": ["cat"], "b": ["cats"], "c": ["dog"], "d": ["dogs"], "relation": ["plural"]}
    assert open_suite("own-analogies", table).tasks[0].questions[0].relation == "plural"


def test_vocabulary_adds_words_that_may_be_the_answer(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cow\nman\n")
    table = {"a": ["man"], "b": ["king"], "c": ["woman"], "d": ["queen"]}
    vectors = {"man": [1, 0], "king": [1, 1], "woman": [-1, 0], "queen": [-1, 3], "cow": [-1, 1]}
    assert evaluate(Fixed(vectors), "own-analogies", table, resamples=0).main == 100.0
    settings = {"vocabulary": str(tmp_path / "words.txt")}
    assert evaluate(Fixed(vectors), "own-analogies", table, settings=settings, resamples=0).main == 0.0


def test_columns_name_the_words_of_an_analogy() -> None:
    table = {"x": ["man"], "y": ["king"], "c": ["woman"], "z": ["queen"], "what": ["gender"]}
    vectors = {"man": [1, 0], "king": [1, 1], "woman": [-1, 0], "queen": [-1, 1]}
    settings = {"columns": {"x": "a", "y": "b", "z": "d", "what": "relation"}}
    task = evaluate(Fixed(vectors), "own-analogies", table, settings=settings, resamples=0).tasks["data"]
    assert task.score == 100.0 and "gender" in json.dumps(task.details)
    with pytest.raises(EmbedkitError, match="no column 'w'"):
        open_suite("own-analogies", table, settings={"columns": {"w": "a"}})


def test_pairing_consistency_is_the_mean_auroc_over_shuffles() -> None:
    rng = np.random.default_rng(7)
    first = rng.standard_normal((6, 4))
    second = first + rng.standard_normal(4) + 0.5 * rng.standard_normal((6, 4))
    value = pairing_consistency(first, second, 40, np.random.default_rng(0))

    def cosines(offsets: np.ndarray) -> list[float]:
        unit = unit_rows(offsets)
        return [float(unit[i] @ unit[j]) for i, j in itertools.combinations(range(len(unit)), 2)]

    areas = []
    orders = [order for order in itertools.permutations(range(6)) if all(i != j for i, j in enumerate(order))]
    for order in orders:
        truth, others = cosines(second - first), cosines(second[list(order)] - first)
        areas.append(roc_auc_score([1] * len(truth) + [0] * len(others), truth + others))
    assert value == pytest.approx(np.mean(areas), abs=4 * np.std(areas) / np.sqrt(40))
    assert np.isnan(pairing_consistency(first[:2], second[:2], 5, rng))


def test_compatibility_searches_the_old_index_with_new_queries(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart", smoke=True).model
    models = [build(recipe), build(recipe)]
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in models[1].parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    models[0].save(tmp_path / "old")
    texts = sentences(24)
    data = {"query": texts[:12], "positive": texts[12:]}
    settings = {"old": str(tmp_path / "old"), "main": "mrr@100", "cutoffs": [100]}
    metrics = evaluate(models[1], "own-compatibility", data, settings=settings, resamples=0).tasks["data"].metrics
    q, old = unit_rows(models[1].encode(texts[:12])), unit_rows(models[0].encode(texts[12:]))
    ranks = [1 + int((row > row[i]).sum()) for i, row in enumerate(q @ old.T)]
    assert metrics["mrr@100"] == pytest.approx(100 * np.mean([1 / rank for rank in ranks]), abs=1e-4)
    for name, model in (("old", models[0]), ("new", models[1])):
        plain = evaluate(model, "own-retrieval", data, settings={"main": "mrr@100", "cutoffs": [100]}, resamples=0)
        assert metrics[f"{name}_mrr@100"] == pytest.approx(plain.main)
    gain = (metrics["mrr@100"] - metrics["old_mrr@100"]) / (metrics["new_mrr@100"] - metrics["old_mrr@100"])
    assert metrics["update_gain"] == pytest.approx(gain)
    same = evaluate(models[0], "own-compatibility", data, settings=settings, resamples=0).tasks["data"].metrics
    assert same["mrr@100"] == same["old_mrr@100"] and same["compatible"] == 0 and "update_gain" not in same


def test_token_cosines_are_the_mean_over_all_pairs_of_tokens() -> None:
    model, texts = small_encoder().eval(), ["the medic hauls a mug", "perhaps", *sentences(3)]
    figures = token_cosines(model, texts, batch=2)
    ids = [model.prepare([text]).rows()[0] for text in texts]
    with torch.no_grad():
        states = [model.encoder(torch.tensor([row]), output_hidden_states=True).hidden_states for row in ids]
    for layer, values in figures.items():
        unit = [unit_rows(state[layer][0].double().numpy()) for state in states]
        everything = np.concatenate(unit)
        pairs = [everything[i] @ everything[j] for i, j in itertools.combinations(range(len(everything)), 2)]
        assert values["all"] == pytest.approx(np.mean(pairs), abs=1e-5)
        within = [np.mean([t[i] @ t[j] for i, j in itertools.combinations(range(len(t)), 2)]) for t in unit]
        assert values["within"] == pytest.approx(np.mean(within), abs=1e-5)
    metrics = evaluate(model, "own-tokens", {"text": texts}, resamples=0).tasks["data"].metrics
    assert metrics["token_isotropy"] == pytest.approx(1 - figures[2]["all"])


def test_attention_probes_are_those_of_loops_over_transformers_own_maps() -> None:
    model, texts = small_encoder().eval(), ["the medic hauls a mug", "perhaps", *sentences(3)]
    found = attention_of_layers(model, texts, batch=2)
    model.encoder.set_attn_implementation("eager")
    with torch.no_grad():
        maps = [model.encoder(torch.tensor([model.prepare([text]).rows()[0]]), output_attentions=True).attentions
                for text in texts]  # fmt: skip
    assert sorted(found) == [1, 2]
    for layer, values in found.items():
        distances, entropies, firsts = [], [], []
        for attention in maps:
            for head in attention[layer - 1][0].double().numpy():
                size = len(head)
                even = np.mean([abs(i - j) for i in range(size) for j in range(size)])
                far = [sum(head[i, j] * abs(i - j) for j in range(size)) for i in range(size)]
                distances.append(np.mean(far) / even)
                entropies.append(np.mean([-sum(p * math.log(p) for p in row) for row in head]) / math.log(size))
                firsts.append(np.mean([row[0] for row in head]))
        expected = {"distance": distances, "entropy": entropies, "first": firsts}
        for name, value in values.items():
            assert value == pytest.approx(np.mean(expected[name]), rel=1e-5), name
    metrics = evaluate(small_encoder(), "own-attention", {"text": texts}, resamples=0).tasks["data"].metrics
    assert metrics["attention_distance"] == pytest.approx(np.mean([found[layer]["distance"] for layer in (1, 2)]))


@pytest.mark.parametrize("look", ["oneself", "the farthest", "evenly"])
def test_attention_that_is_known_has_known_measures(look: str) -> None:
    places = np.stack(np.meshgrid(np.arange(2.0), np.arange(3.0)), axis=-1).reshape(-1, 2)  # a grid of patches
    gaps = np.sqrt(((places[:, None] - places[None]) ** 2).sum(-1))
    rows = {"oneself": np.eye(6), "the farthest": np.eye(6)[gaps.argmax(1)], "evenly": np.full((6, 6), 1 / 6)}[look]
    found = attention_measures(np.broadcast_to(rows, (2, 3, 6, 6)), places)
    distance = {"oneself": 0.0, "the farthest": gaps.max(1).mean() / gaps.mean(), "evenly": 1.0}[look]
    np.testing.assert_allclose(found["distance"], np.full((2, 3), distance), atol=1e-12)
    np.testing.assert_allclose(found["entropy"], np.full((2, 3), float(look == "evenly")), atol=1e-12)


def test_covariance_operator_is_that_of_loops() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 4, 50)
    vectors = rng.standard_normal((50, 6)) + 2 * rng.standard_normal((4, 6))[groups]
    figures, spectrum = covariance_operator(vectors, groups)
    unit = unit_rows(vectors)
    mean = unit.mean(axis=0)
    total = sum(np.outer(row - mean, row - mean) for row in unit) / 50
    centres = [unit[groups == group].mean(axis=0) - mean for group in groups]
    operator = sum(np.outer(centre, centre) for centre in centres) / 50
    values, directions = np.linalg.eigh(total)
    assert spectrum == pytest.approx((values[::-1] / values.sum()).tolist())
    shares = values / values.sum()
    assert figures["covariance_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert figures["between_share"] == pytest.approx(np.trace(operator) / np.trace(total))
    leading = directions[:, -3:]
    assert figures["mean_alignment"] == pytest.approx(np.trace(leading.T @ operator @ leading) / np.trace(operator))
    data = {"text": [f"text {i}" for i in range(50)], "label": groups.tolist()}
    model = table_of(vectors)[0]
    task = evaluate(model, "own-space", data, resamples=0).tasks["data"]
    assert task.metrics["between_share"] == pytest.approx(figures["between_share"], abs=1e-6)
    assert json.dumps(task.details["covariance_spectrum"])


@pytest.mark.parametrize(
    ("suite", "data", "settings", "words"),
    [
        ("own-domains", {"text": ["a", "b"], "label": [0, 1]}, {}, "no column 'domain'"),
        ("own-domains", {"text": ["a", "b"], "label": [0, 1], "domain": ["x", "x"]}, {}, "one value, 'x'"),
        ("own-domains", {"text": ["a", "b"], "label": [0, 1], "domain": ["x", "y"]}, {}, "4 rows of each label"),
        ("own-attributes", {"text": ["a"] * 8, "easy": [0, 1] * 4}, {}, "no column 'hard'"),
        ("own-attributes", {"text": ["a"]}, {"easy": "x", "hard": "x"}, "are both the column 'x'"),
        ("own-anomaly", {"text": ["a", "b"], "label": ["ok", "odd"]}, {}, "has one row"),
        ("own-anomaly", {"text": ["a"] * 4, "label": ["ok", "odd"] * 2}, {"normal": "okay"}, "did you mean 'ok'"),
        ("own-analogies", {"text": ["one two three"]}, {}, "no analogy in this line"),
        ("own-analogies", {"text": [": gender", "man king woman"]}, {}, "3 words, not four"),
        ("own-analogies", {"text": ["cat\tcats"]}, {}, "has one pair"),
        ("own-compatibility", {"query": ["a"], "positive": ["b"]}, {}, "--set old=MODEL"),
        ("own-classification", {"text": ["a", "b"] * 6, "label": [0, 1] * 6}, {"curve": [4]}, "a test split"),
        (
            "own-classification",
            {"text": ["a", "b"] * 6, "label": [0, 1] * 6, "split": ["train"] * 6 + ["test"] * 6},
            {"curve": [1]},
            "fewer than the 2 classes",
        ),
        ("own-space", {"text": ["a", "b"], "label": [1, 1]}, {}, "two labels at least"),
        ("own-tokens", {"text": ["a", ""]}, {}, "is empty"),
        ("own-attention", {"text": ["a", ""]}, {}, "is empty"),
    ],
)
def test_bad_data_is_one_line(suite: str, data: dict[str, Any], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(EmbedkitError, match=words.replace("(", r"\(")) as caught:
        open_suite(suite, data, settings=settings)
    assert "\n" not in str(caught.value)


def test_shots_and_neighbours_without_a_test_split_are_noted() -> None:
    data = {"text": ["a", "b"] * 6, "label": [0, 1] * 6}
    for settings, names in (({"shots": [2], "neighbours": 3}, ["shots", "neighbours"]), ({}, [])):
        notes = open_suite("own-classification", data, settings=settings).tasks[0].notes
        idle = [note for note in notes if note.endswith("nothing, without a training split and a test split")]
        assert idle == [f"data: {name}: nothing, without a training split and a test split" for name in names]


def test_the_protocol_of_known_data_is_not_chosen_by_itself(tmp_path: Path) -> None:
    write_tsv(tmp_path / "trec.tsv", ("text", "label", "split"), [("a", 0, "train"), ("b", 1, "test")])
    with pytest.raises(EmbedkitError, match=r"task trec: settings.protocol: protocol auto is for own data"):
        open_suite("transfer", tmp_path, ["trec"], settings={"protocol": "auto"})


@pytest.mark.parametrize("suite", ["own-head", "own-tokens", "own-attention"])
def test_a_model_without_what_is_asked_for_gets_a_line(suite: str) -> None:
    data = {"text": ["a cat", "a dog"] * 8, "label": [0, 1] * 8}
    with pytest.raises(EmbedkitError, match="the model: it has no"):
        evaluate(BagOfWords(), suite, data, resamples=0)


def test_compatibility_refuses_models_of_other_sizes(tmp_path: Path) -> None:
    build(load_recipe("quickstart", smoke=True).model).save(tmp_path / "old")
    with pytest.raises(EmbedkitError, match="numbers"):
        evaluate(BagOfWords(dim=7), "own-compatibility", {"query": ["a"], "positive": ["b"]},
                 settings={"old": str(tmp_path / "old")}, resamples=0)  # fmt: skip
