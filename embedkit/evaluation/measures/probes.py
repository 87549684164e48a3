"""Classifiers on frozen vectors: what a linear layer, or the nearest neighbours, can read out of them.

``scikit-learn`` is its logistic regression; ``senteval`` is the classifier of SentEval (Conneau and Kiela 2018), a
softmax layer trained with Adam, with the habits that its published figures depend on: strength is Adam's weight decay,
four epochs between two looks at the validation accuracy, and a count of looks without gain that is never set back.
``senteval-fast`` is the same with RMSprop and fewer looks, the one that checkpoints are chosen by while training.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from embedkit.errors import DataError, MissingExtraError
from embedkit.evaluation.core.stats import Array, unit_rows

Fidelity = Literal["scikit-learn", "senteval", "senteval-fast"]
Predict = Callable[[Array], Array]
Labelled = tuple[Array, Array]

FOLD_SEED = 1111  # SentEval's, for folds, initial weights and shuffling


def _sklearn() -> Any:
    try:
        import sklearn.linear_model
        import sklearn.model_selection
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "eval", "a classification probe") from error
    return sklearn


def logistic(
    train: Labelled, strengths: Sequence[float], seed: int, iterations: int = 1000
) -> Iterator[tuple[Predict, bool]]:
    """A classifier for each ``C`` of `strengths`: scikit-learn's logistic regression on vectors (N, D), labels (N,).

    With each comes whether it met the optimum, which is one; only the way there is chosen here. On vectors that nearly
    point one way, as untrained encoders give them, scikit-learn's usual L-BFGS needs more than its thousand steps.
    Newton's method by conjugate gradients, each from the solution before, ends nearer to the optimum in a fraction of
    the time. It wants the digits of float64.

    Examples
    --------
    >>> x, y = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]]), np.array([0, 0, 1, 1])
    >>> ((predict, converged),) = logistic((x, y), [1.0], seed=0)
    >>> predict(np.array([[0.2, 0.8]])).tolist(), converged
    ([0], True)
    """
    x, y = train[0].astype(np.float64), train[1]
    model = _sklearn().linear_model.LogisticRegression(
        solver="newton-cg", tol=1e-5, warm_start=True, max_iter=iterations, random_state=seed
    )
    for strength in strengths:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.set_params(C=strength).fit(x, y)
        for one in caught:
            if not _ended_early(one) and "line search" not in str(one.message).lower():  # scipy's, of a single step
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno, registry=_TOLD)
        yield copy.deepcopy(model).predict, not any(map(_ended_early, caught))


_TOLD: dict[Any, Any] = {}  # so that a warning is shown as often as it would have been


def _ended_early(caught: warnings.WarningMessage) -> bool:
    """Whether a warning says that Newton's method stopped: after the last step, or for want of a next one.

    scikit-learn has a category for the first only; the second is a plain warning.
    """
    from sklearn.exceptions import ConvergenceWarning

    return issubclass(caught.category, ConvergenceWarning) or str(caught.message) == "Line Search failed"


@dataclass(frozen=True)
class SentEvalSettings:
    """SentEval's settings in SimCSE's ``test`` mode, in its own units; `optimizer` is a class of torch.optim,
    `hidden` the units of a sigmoid layer before the softmax, none at 0.

    Examples
    --------
    >>> SENTEVAL["senteval"].optimizer, SENTEVAL["senteval-fast"].patience
    ('Adam', 3)
    """

    optimizer: str = "Adam"
    batch: int = 64
    patience: int = 5
    epochs_per_look: int = 4
    most_epochs: int = 200
    hidden: int = 0


SENTEVAL = {
    "senteval": SentEvalSettings(),
    "senteval-fast": SentEvalSettings("RMSprop", batch=128, patience=3, epochs_per_look=2),
}
"""By fidelity: SimCSE's modes ``test`` and ``dev`` (the latter also with 5 folds)."""


def senteval_softmax(
    train: Labelled,
    strength: float,
    valid: Labelled | None,
    classes: int,
    settings: SentEvalSettings = SentEvalSettings(),
) -> Predict:
    """SentEval's softmax classifier; without `valid` a random twentieth of the training rows stops it, one at least.

    Examples
    --------
    >>> x, y = np.tile([[0.0, 1.0], [1.0, 0.0]], (1000, 1)), np.tile([0, 1], 1000)
    >>> predict = senteval_softmax((x, y), 1e-5, (x[:2], y[:2]), classes=2)
    >>> predict(np.array([[0.1, 0.9], [0.9, 0.1]])).tolist()
    [0, 1]
    """
    import torch

    generator = np.random.RandomState(FOLD_SEED)
    x, y = train
    if valid is None:
        order = generator.permutation(len(x))
        held_out = max(1, int(0.05 * len(x)))
        valid = x[order[:held_out]], y[order[:held_out]]
        x, y = x[order[held_out:]], y[order[held_out:]]
    inputs, labels = torch.from_numpy(np.asarray(x, dtype=np.float32)), torch.from_numpy(np.asarray(y, dtype=np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FOLD_SEED)
        layer: torch.nn.Module = torch.nn.Linear(settings.hidden or inputs.shape[1], classes)
        if settings.hidden:
            layer = torch.nn.Sequential(torch.nn.Linear(inputs.shape[1], settings.hidden), torch.nn.Sigmoid(), layer)
    optimizer = getattr(torch.optim, settings.optimizer)(layer.parameters(), weight_decay=strength)

    def predict(vectors: Array) -> Array:
        with torch.no_grad():
            return layer(torch.from_numpy(np.asarray(vectors, dtype=np.float32))).argmax(dim=1).numpy()

    best, best_state, idle = -1.0, {}, 0
    for _ in range(0, settings.most_epochs + 1, settings.epochs_per_look):
        for _ in range(settings.epochs_per_look):
            shuffled = torch.from_numpy(generator.permutation(len(inputs)))
            for rows in shuffled.split(settings.batch):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(layer(inputs[rows]), labels[rows]).backward()
                optimizer.step()
        accuracy = float((predict(valid[0]) == valid[1]).mean())
        if accuracy > best:
            best, best_state = accuracy, {name: value.clone() for name, value in layer.state_dict().items()}
        else:
            idle += 1
            if idle > settings.patience:
                break
    layer.load_state_dict(best_state)
    return predict


@dataclass
class Probe:
    """A family of classifiers with a grid of strengths to choose from.

    Attributes
    ----------
    fidelity : str
        Which classifier.
    folds, seed : int
        Of every stratified cross-validation.
    classes : int
    stopped : int
        Logistic regressions so far that ended before they met their optimum.
    settings : SentEvalSettings, optional
        Instead of those that SentEval's `fidelity` has.
    strengths : sequence of float
        Instead of the grid.

    Examples
    --------
    >>> x, y = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]]), np.array([0, 0, 1, 1])
    >>> probe = Probe("scikit-learn", folds=2, seed=0, classes=2)
    >>> predictions, accuracies, _ = probe.nested(np.tile(x, (2, 1)), np.tile(y, 2))
    >>> predictions.tolist(), accuracies
    ([0, 0, 1, 1, 0, 0, 1, 1], [1.0, 1.0])
    """

    fidelity: Fidelity
    folds: int
    seed: int
    classes: int
    stopped: int = 0
    settings: SentEvalSettings | None = None
    strengths: Sequence[float] = ()

    def grid(self, wide: bool) -> list[float]:
        """Strengths to try; `wide` is SentEval's grid for tasks with a test set."""
        if self.strengths:
            return list(self.strengths)
        if self.fidelity in SENTEVAL:
            return [1e-5, 1e-4, 1e-3, 1e-2]
        return [2.0**power for power in (range(-1, 6) if wide else range(-2, 4))]

    def fits(self, train: Labelled, strengths: Sequence[float], valid: Labelled | None = None) -> Iterator[Predict]:
        """A classifier for each strength; `valid` is used by SentEval's early stopping only."""
        if self.fidelity in SENTEVAL:
            settings = self.settings or SENTEVAL[self.fidelity]
            for strength in strengths:
                yield senteval_softmax(train, strength, valid, self.classes, settings)
            return
        for predict, met in logistic(train, strengths, self.seed):
            self.stopped += not met
            yield predict

    def fit(self, train: Labelled, strength: float, valid: Labelled | None = None) -> Predict:
        """The classifier of one strength."""
        return next(self.fits(train, [strength], valid))

    def _split(self, x: Array, y: Array) -> list[tuple[Array, Array]]:
        smallest = int(np.bincount(y, minlength=self.classes).min())
        if smallest < self.folds:
            raise DataError(f"a class has {smallest} rows, too few for {self.folds} folds", remedy="lower folds=")
        chooser = _sklearn().model_selection.StratifiedKFold(self.folds, shuffle=True, random_state=self.seed)
        return list(chooser.split(x, y))

    def choose(self, x: Array, y: Array, wide: bool) -> tuple[float, float]:
        """The best strength by cross-validation and its accuracy (0..1, rounded as SentEval rounds)."""
        grid = self.grid(wide)
        parts = [self._accuracies((x[rows], y[rows]), (x[rest], y[rest]), grid) for rows, rest in self._split(x, y)]
        scores = [round(float(np.mean(column)), 4) for column in zip(*parts, strict=True)]
        best = int(np.argmax(scores))
        return grid[best], scores[best]

    def _accuracies(self, train: Labelled, valid: Labelled, grid: Sequence[float]) -> list[float]:
        """Accuracy (0..1) on `valid` for each strength."""
        return [float((predict(valid[0]) == valid[1]).mean()) for predict in self.fits(train, grid, valid)]

    def chosen_by_fold(self, x: Array, y: Array) -> Iterator[tuple[Array, Array, tuple[float, float]]]:
        """Rows to train on, rows held out, and what `choose` finds in the former, for every fold."""
        for train, held_out in self._split(x, y):
            yield train, held_out, self.choose(x[train], y[train], wide=False)

    def nested(self, x: Array, y: Array) -> tuple[Array, list[float], list[float]]:
        """Predictions (N,) of every row by a classifier that did not see it, accuracy and strength by fold."""
        predictions, accuracies, strengths = np.empty_like(y), [], []
        for train, held_out, (strength, _) in self.chosen_by_fold(x, y):
            predictions[held_out] = self.fit((x[train], y[train]), strength)(x[held_out])
            accuracies.append(float((predictions[held_out] == y[held_out]).mean()))
            strengths.append(strength)
        return predictions, accuracies, strengths

    def choose_on(self, train: Labelled, valid: Labelled) -> tuple[float, float]:
        """The best strength by the accuracy on `valid`, and that accuracy."""
        grid = self.grid(wide=False)
        scores = [round(accuracy, 4) for accuracy in self._accuracies(train, valid, grid)]
        best = int(np.argmax(scores))
        return grid[best], scores[best]


def nearest_neighbours(train: Labelled, x: Array, k: int, temperature: float = 0.07, block: int = 1024) -> Array:
    """Labels (N,) by a vote of the `k` nearest by cosine, each with weight exp(cosine / temperature).

    Wu et al. 2018 (section 3.4); nearest rows and equal votes are settled by order, first row and first label first.

    Examples
    --------
    >>> train = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0]]), np.array([0, 0, 1])
    >>> nearest_neighbours(train, np.array([[0.2, 0.8], [0.9, 0.1]]), k=1).tolist()
    [0, 1]
    """
    from embedkit.retrieval.exact import array_blocks, exact_top_k

    corpus = unit_rows(train[0])
    scores, places = exact_top_k(unit_rows(x), array_blocks(corpus, 4 * block), k, len(corpus))
    votes = np.zeros((len(x), int(train[1].max()) + 1))
    weights = np.exp((scores.astype(np.float64) - 1) / temperature)
    np.add.at(votes, (np.arange(len(x))[:, None], train[1][places]), weights)
    return votes.argmax(axis=1)


def few_of_each(y: Array, shots: int, rng: np.random.Generator) -> Array:
    """Rows of `shots` random samples of every class (all of them where a class has fewer), sorted.

    Examples
    --------
    >>> few_of_each(np.array([0, 0, 0, 1, 1]), 1, np.random.default_rng(0)).tolist()
    [2, 4]
    """
    rows: Sequence[Array] = [rng.permutation(np.flatnonzero(y == label))[:shots] for label in range(int(y.max()) + 1)]
    return np.sort(np.concatenate(rows))


def halves(y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Rows of labels (N,) in two halves, each class cut in half, the odd row to the first; sorted.

    Examples
    --------
    >>> [half.tolist() for half in halves(np.array([0, 0, 0, 1, 1]), np.random.default_rng(0))]
    [[0, 2, 4], [1, 3]]
    """
    parts = [rng.permutation(np.flatnonzero(y == label)) for label in range(int(y.max()) + 1)]
    first = np.sort(np.concatenate([rows[: (len(rows) + 1) // 2] for rows in parts]))
    return first, np.setdiff1d(np.arange(len(y)), first)


def balanced_order(y: Array, rng: np.random.Generator) -> Array:
    """A random order of the rows of labels (N,) whose every beginning has the classes in nearly their shares.

    One row of each class comes first, so that a beginning of that length can be learnt from.

    Examples
    --------
    >>> y = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    >>> y[balanced_order(y, np.random.default_rng(0))][:4].sum() in (1, 2)
    True
    """
    place = np.empty(len(y))
    for label in range(int(y.max()) + 1):
        rows = rng.permutation(np.flatnonzero(y == label))
        place[rows] = (np.arange(len(rows)) + rng.random()) / max(len(rows), 1)
        place[rows[:1]] -= 2
    return np.argsort(place, kind="stable")


def class_means(train: Labelled, x: Array) -> Array:
    """Labels (N,) by the largest product with the mean vector of a class (the mean classifier of Arora et al. 2019).

    Examples
    --------
    >>> train = np.array([[0.0, 1.0], [0.0, 3.0], [1.0, 0.0]]), np.array([0, 0, 1])
    >>> class_means(train, np.array([[1.0, 1.0], [3.0, 1.0]])).tolist()
    [0, 1]
    """
    vectors, y = np.asarray(train[0], dtype=np.float64), train[1]
    means = np.stack([vectors[y == label].mean(axis=0) for label in range(int(y.max()) + 1)])
    return (np.asarray(x, dtype=np.float64) @ means.T).argmax(axis=1)
