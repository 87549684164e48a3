"""Transfer tasks against plain scikit-learn, SentEval's classifier against its rules written out."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from embedkit.errors import DataError
from embedkit.evaluation import evaluate, open_suite
from embedkit.evaluation.measures import probes
from embedkit.evaluation.measures.probes import SENTEVAL, few_of_each, logistic, nearest_neighbours, senteval_softmax
from tests.evaluation.toys import WORDS, BagOfWords, write_tsv


def _labelled(count: int, seed: int, classes: int = 2) -> list[tuple[str, int]]:
    """Sentences whose label leans on one of their words."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = list(rng.choice(WORDS, 5))
        label = WORDS.index(words[0]) % classes if rng.uniform() < 0.8 else int(rng.integers(classes))
        rows.append((" ".join(words), label))
    return rows


def _folds(folds: int) -> StratifiedKFold:
    return StratifiedKFold(folds, shuffle=True, random_state=1111)


def _logistic(strength: float = 1.0) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=1000)


NARROW, WIDE = [2.0**p for p in range(-2, 4)], [2.0**p for p in range(-1, 6)]


def test_nested_protocol_is_scikit_learns_nested_cross_validation(tmp_path: Path) -> None:
    rows = _labelled(150, 0)
    write_tsv(tmp_path / "cr.tsv", ("text", "label", "split"), [(*row, "all") for row in rows])
    report = evaluate(BagOfWords(8), "transfer", tmp_path, ["cr"], settings={"folds": 4}, resamples=20)
    x, y = BagOfWords(8).encode([text for text, _ in rows]), np.array([label for _, label in rows])
    search = GridSearchCV(_logistic(), {"C": NARROW}, cv=_folds(4))
    wanted = cross_val_score(search, x, y, cv=_folds(4))
    assert report.tasks["cr"].details["folds"] == pytest.approx(100 * wanted, abs=1e-9)
    assert report.scores["cr"] == pytest.approx(100 * wanted.mean(), abs=1e-9)
    low, high = report.tasks["cr"].interval
    assert low < report.scores["cr"] < high


@pytest.mark.parametrize("task", ["trec", "mrpc"])
def test_train_and_test_protocol_chooses_by_folds(tmp_path: Path, task: str) -> None:
    train, test = _labelled(160, 1, 3 if task == "trec" else 2), _labelled(60, 2, 3 if task == "trec" else 2)
    model = BagOfWords(8)
    if task == "trec":
        header = ("text", "label", "split")
        features = [model.encode([text for text, _ in rows]) for rows in (train, test)]
    else:
        header = ("sentence1", "sentence2", "label", "split")
        train, test = (
            [(text, " ".join(WORDS[: n % 4 + 1]), label) for n, (text, label) in enumerate(rows)]
            for rows in (train, test)
        )
        features = []
        for rows in (train, test):
            u, v = model.encode([row[0] for row in rows]), model.encode([row[1] for row in rows])
            features.append(np.hstack([np.abs(u - v), u * v]))
    labels = [np.array([row[-1] for row in rows]) for rows in (train, test)]
    write_tsv(
        tmp_path / f"{task}.tsv", header, [(*r, s) for s, rows in (("train", train), ("test", test)) for r in rows]
    )
    report = evaluate(BagOfWords(8), "transfer", tmp_path, [task], settings={"folds": 3}, resamples=0)
    search = GridSearchCV(_logistic(), {"C": WIDE}, cv=_folds(3)).fit(features[0], labels[0])
    predictions = search.predict(features[1])
    assert report.scores[task] == pytest.approx(100 * (predictions == labels[1]).mean(), abs=1e-9)
    assert report.tasks[task].details["strengths"] == [search.best_params_["C"]]
    if task == "mrpc":
        assert report.tasks[task].metrics["f1"] == pytest.approx(100 * f1_score(labels[1], predictions), abs=1e-9)


def _write_sst2(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    parts = {"train": _labelled(120, 3), "dev": _labelled(40, 4), "test": _labelled(50, 5)}
    rows = [(*row, split) for split, found in parts.items() for row in found]
    write_tsv(folder / "sst2.tsv.gz", ("text", "label", "split"), rows)
    model = BagOfWords(8)
    return {s: (model.encode([t for t, _ in r]), np.array([label for _, label in r])) for s, r in parts.items()}


def test_dev_protocol_chooses_on_dev(tmp_path: Path) -> None:
    parts = _write_sst2(tmp_path)
    report = evaluate(BagOfWords(8), "transfer", tmp_path, ["sst2"], resamples=0)
    on_dev = [_logistic(c).fit(*parts["train"]).score(*parts["dev"]) for c in NARROW]
    best = _logistic(NARROW[int(np.argmax(on_dev))]).fit(*parts["train"])
    assert report.scores["sst2"] == pytest.approx(100 * best.score(*parts["test"]), abs=1e-9)
    assert report.tasks["sst2"].metrics["dev_accuracy"] == pytest.approx(100 * max(on_dev), abs=0.01)


def test_asked_for_dev_the_score_is_what_strengths_are_chosen_by(tmp_path: Path) -> None:
    rows = _labelled(150, 0)
    write_tsv(tmp_path / "cr.tsv", ("text", "label", "split"), [(*row, "all") for row in rows])
    train = _labelled(160, 1, 3)
    write_tsv(tmp_path / "trec.tsv", ("text", "label", "split"), [(*row, "train") for row in train])
    both = [(*row, split) for split, seed in (("train", 3), ("dev", 4)) for row in _labelled(120, seed)]
    write_tsv(tmp_path / "sst2.tsv", ("text", "label", "split"), both)
    report = evaluate(
        BagOfWords(8), "transfer", tmp_path, ["cr", "trec", "sst2"], "dev", settings={"folds": 4}, resamples=20
    )

    def read(found: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        return BagOfWords(8).encode([row[0] for row in found]), np.array([row[1] for row in found])

    x, y = read(rows)
    inner = [
        round(GridSearchCV(_logistic(), {"C": NARROW}, cv=_folds(4)).fit(x[part], y[part]).best_score_, 4)
        for part, _ in _folds(4).split(x, y)
    ]
    folds = GridSearchCV(_logistic(), {"C": WIDE}, cv=_folds(4)).fit(*read(train)).best_score_
    fitted = [_logistic(c).fit(*read(both[:120])) for c in NARROW]
    on_dev = max(model.score(*read(both[120:])) for model in fitted)
    assert report.scores["cr"] == pytest.approx(100 * np.mean(inner), abs=1e-9)
    assert report.scores["trec"] == pytest.approx(100 * folds, abs=0.01)
    assert report.scores["sst2"] == pytest.approx(100 * on_dev, abs=0.01)
    assert report.scores["avg"] == pytest.approx(np.mean([report.scores[t] for t in ("cr", "trec", "sst2")]), abs=0.01)
    assert {task.metric for task in report.tasks.values()} == {"dev_accuracy"}


TEST_MODE = {"make": torch.optim.Adam, "batch": 64, "patience": 5, "between": 4}
DEV_MODE = {"make": torch.optim.RMSprop, "batch": 128, "patience": 3, "between": 2}


def test_a_limit_takes_the_same_rows_of_every_split_and_is_noted(tmp_path: Path) -> None:
    _write_sst2(tmp_path)
    suites = [open_suite("transfer", tmp_path, ["sst2"], settings={"limit": 45}) for _ in range(2)]
    train, dev, test = (inputs[0] for inputs, _ in suites[0].tasks[0].parts)
    whole = [inputs[0] for inputs, _ in open_suite("transfer", tmp_path, ["sst2"]).tasks[0].parts]
    assert [len(train), len(dev), len(test)] == [45, 40, 45]
    places = iter(whole[0])
    assert all(text in places for text in train)  # rows of the split, in its order
    assert train != whole[0][:45]
    assert suites[1].tasks[0].parts[0][0][0] == train
    notes = suites[0].run(BagOfWords(8)).tasks["sst2"].notes
    assert "sst2: 45 of 120 rows: not comparable" in notes
    assert "sst2: 45 of 50 rows: not comparable" in notes


def test_regressions_meet_the_optimum_on_vectors_that_nearly_point_one_way() -> None:
    """Untrained encoders give such vectors; the optimum is checked by its gradient."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(300, 40)) * np.geomspace(1e-2, 1, 40) + 20.0).astype(np.float32)
    y = np.argmax(x[:, -3:] + 0.5 * rng.normal(size=(300, 3)), axis=1)
    strengths = [0.5, 8.0, 32.0]
    for strength, (predict, met) in zip(strengths, logistic((x, y), strengths, 0), strict=True):
        model = predict.__self__
        wide, truth = x.astype(np.float64), np.eye(3)[y]
        error = model.predict_proba(wide) - truth
        gradient = error.T @ wide / len(x) + model.coef_ / (strength * len(x))
        assert met
        assert np.abs(gradient).max() < 1e-5
        assert np.abs(error.mean(axis=0)).max() < 1e-5


def test_a_regression_that_ends_early_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [met for _, met in logistic((np.eye(40), np.arange(40) % 2), [1e9], 0, iterations=1)] == [False]
    monkeypatch.setattr(probes, "logistic", lambda *given: logistic(*given, iterations=1))
    _write_sst2(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notes = evaluate(BagOfWords(8), "transfer", tmp_path, ["sst2"], resamples=0).tasks["sst2"].notes
    assert any("ended before they met their optimum" in note for note in notes)


def test_only_warnings_of_an_early_end_count_and_others_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    data, fit = (np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2), LogisticRegression.fit
    for message, category, ended, passed in (
        ("Line Search failed", UserWarning, True, False),
        ("The line search algorithm did not converge", RuntimeWarning, False, False),
        ("a setting is deprecated", FutureWarning, False, True),
    ):

        def warned(self: Any, x: Any, y: Any, message: str = message, category: type[Warning] = category) -> Any:
            warnings.warn(message, category, stacklevel=1)
            return fit(self, x, y)

        monkeypatch.setattr(LogisticRegression, "fit", warned)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert [met for _, met in logistic(data, [1.0, 2.0], 0)] == [not ended] * 2
        assert [str(one.message) for one in said] == [message] * (2 * passed)


@pytest.mark.parametrize("fidelity", list(SENTEVAL))
def test_sentevals_classifier_holds_a_row_out_of_few(tmp_path: Path, fidelity: str) -> None:
    texts = [f"{word} {number}" for number in range(8) for word in ("cat", "dog")]
    rows = [(text, int("cat" in text), split) for split in ("train", "test") for text in texts]
    write_tsv(tmp_path / "trec.tsv", ("text", "label", "split"), rows)
    settings = {"fidelity": fidelity, "folds": 2}
    report = evaluate(BagOfWords(8), "transfer", tmp_path, ["trec"], settings=settings, resamples=0)
    assert 0 <= report.scores["trec"] <= 100
    x, y = BagOfWords(8).encode(texts), np.array([int("cat" in text) for text in texts])
    for count in (2, 19):
        predict = senteval_softmax((x[:count], y[:count]), 1e-5, None, 2, SENTEVAL[fidelity])
        assert set(predict(x)) <= {0, 1}


def _senteval(
    train: Any, valid: Any, decay: float, make: Any, batch: int, patience: int, between: int
) -> tuple[torch.nn.Linear, int]:
    """SentEval's training loop by the book: looks every few epochs, patience + 1 looks without gain in all end it."""
    generator = np.random.RandomState(1111)
    torch.manual_seed(1111)
    layer = torch.nn.Linear(train[0].shape[1], 2)
    optimizer = make(layer.parameters(), weight_decay=decay)
    x, y = torch.from_numpy(train[0]), torch.from_numpy(train[1])
    epoch, failures, best, state = 0, 0, -1.0, None
    while epoch <= 200:
        for _ in range(between):
            order = generator.permutation(len(x))
            for start in range(0, len(x), batch):
                rows = torch.from_numpy(order[start : start + batch])
                loss = torch.nn.functional.cross_entropy(layer(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        epoch += between
        accuracy = (layer(torch.from_numpy(valid[0])).argmax(1).numpy() == valid[1]).mean()
        if accuracy > best:
            best, state = accuracy, {k: v.clone() for k, v in layer.state_dict().items()}
        elif failures == patience:
            break
        else:
            failures += 1
    layer.load_state_dict(state)
    return layer, epoch


@pytest.mark.parametrize("decay", [1e-5, 1e-2])
@pytest.mark.parametrize(("fidelity", "mode"), [("senteval", TEST_MODE), ("senteval-fast", DEV_MODE)])
def test_sentevals_classifier_step_by_step(tmp_path: Path, fidelity: str, mode: dict[str, Any], decay: float) -> None:
    parts = _write_sst2(tmp_path)
    layer, epochs = _senteval(parts["train"], parts["dev"], decay, **mode)
    assert (mode["patience"] + 1) * mode["between"] <= epochs < 200
    predict = senteval_softmax(parts["train"], decay, parts["dev"], 2, SENTEVAL[fidelity])
    x = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    assert np.array_equal(predict(x), layer(torch.from_numpy(x)).argmax(1).numpy())


@pytest.mark.parametrize(("fidelity", "mode"), [("senteval", TEST_MODE), ("senteval-fast", DEV_MODE)])
def test_senteval_fidelity_is_another_classifier_with_its_own_grid(
    tmp_path: Path, fidelity: str, mode: dict[str, Any]
) -> None:
    parts = _write_sst2(tmp_path)
    report = evaluate(BagOfWords(8), "transfer", tmp_path, ["sst2"], settings={"fidelity": fidelity}, resamples=0)
    grid = [1e-5, 1e-4, 1e-3, 1e-2]
    fitted = [_senteval(parts["train"], parts["dev"], decay, **mode)[0] for decay in grid]
    x, y = parts["dev"]
    on_dev = [(m(torch.from_numpy(x)).argmax(1).numpy() == y).mean() for m in fitted]
    chosen = fitted[int(np.argmax(np.round(on_dev, 4)))]
    x, y = parts["test"]
    assert report.scores["sst2"] == pytest.approx(100 * (chosen(torch.from_numpy(x)).argmax(1).numpy() == y).mean())
    assert report.settings["tasks"]["sst2"]["fidelity"] == fidelity


def test_nearest_neighbours_vote_by_weight() -> None:
    rng = np.random.default_rng(0)
    train, y = rng.standard_normal((90, 6)).astype(np.float32), rng.integers(0, 3, 90)
    x = rng.standard_normal((40, 6)).astype(np.float32)
    for k in (1, 7):
        oracle = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp(-d / 0.07)).fit(train, y)
        assert np.array_equal(nearest_neighbours((train, y), x, k), oracle.predict(x))


def test_few_of_each_takes_at_most_what_is_there() -> None:
    y = np.array([0] * 9 + [1] * 2)
    rows = few_of_each(y, 4, np.random.default_rng(0))
    assert np.bincount(y[rows]).tolist() == [4, 2]
    assert len(set(rows)) == 6


def _square(color: tuple[int, int, int]) -> bytes:
    handle = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(handle, format="PNG")
    return handle.getvalue()


class Colors:
    """Encodes an image as its mean colour."""

    def encode(self, inputs: Any, **options: Any) -> np.ndarray:
        return np.array([np.asarray(image).mean(axis=(0, 1)) / 255 - 0.5 for image in inputs], dtype=np.float32)


def test_image_probe_with_neighbours_and_few_shots(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {"image": [], "label": [], "split": []}
    for split, count in (("train", 60), ("val", 12), ("test", 30)):
        for i in range(count):
            color = [40, 40, 40]
            color[i % 3] = int(rng.integers(150, 250))
            values = (_square(tuple(color)), ["red", "green", "blue"][i % 3], split)
            for key, value in zip(rows, values, strict=True):
                rows[key].append(value)
    pq.write_table(pa.table(rows), tmp_path / "cifar10.parquet")
    report = evaluate(Colors(), "image-probe", tmp_path, resamples=0)
    metrics = report.tasks["cifar10"].metrics
    assert report.main == 100.0
    assert metrics["knn_accuracy"] == 100.0
    assert metrics["accuracy_1_shot"] <= metrics["accuracy_10_shot"] == 100.0
    assert report.to_json()["settings"]["data"]["cifar10"]["splits"] == [60, 12, 30]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a b", 1, "all")] * 5, "fewer than two classes"),
        ([("a b", 1, "all"), ("c", 0, "all")] * 3, "a class has 3 rows, too few for 10 folds"),
        ([("a b", 1, "train"), ("c", 0, "train")], "no row of split 'all'"),
    ],
)
def test_unusable_labels_are_refused(tmp_path: Path, rows: list, said: str) -> None:
    write_tsv(tmp_path / "mr.tsv", ("text", "label", "split"), rows)
    with pytest.raises(DataError, match=said):
        evaluate(BagOfWords(), "transfer", tmp_path, ["mr"])


def test_a_cell_that_is_no_image_is_named(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image": ["x", "y"], "label": [0, 1], "split": ["train"] * 2}), tmp_path / "cifar10.parquet"
    )
    with pytest.raises(DataError, match="no row of split 'val'"):
        open_suite("image-probe", tmp_path)
    rows = {"image": ["x"] * 3, "label": [0, 1, 0], "split": ["train", "val", "test"]}
    pq.write_table(pa.table(rows), tmp_path / "cifar10.parquet")
    with pytest.raises(DataError, match="column 'image' holds no image file 'x'"):
        open_suite("image-probe", tmp_path)
