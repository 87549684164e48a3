"""Transfer: how much of a label can be read from frozen vectors, of one text, two texts or an image."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from embedkit.config.settings import Distinct
from embedkit.data.sources.class_names import class_of
from embedkit.errors import DataError, UserError, need
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.inputs import Item
from embedkit.evaluation.core.stats import Array, Samples, generator
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.datasets.inputs import inputs_of
from embedkit.evaluation.datasets.look import Look
from embedkit.evaluation.datasets.splits import same_split
from embedkit.evaluation.datasets.tables import Table, content_hash, open_splits
from embedkit.evaluation.measures.probes import (
    FOLD_SEED,
    Fidelity,
    Labelled,
    Probe,
    balanced_order,
    class_means,
    few_of_each,
    nearest_neighbours,
)
from embedkit.evaluation.mteb.parts import MtebPart, column_of, labelled

Rows = Annotated[int, Field(gt=0)] | Annotated[float, Field(gt=0, le=1)]
"""A number of rows, or a share of them."""


class ProbeSettings(TaskSettings):
    """What is trained on what.

    ``protocol``: "nested" is cross-validation with the strength chosen inside every fold (rows of one split);
    "folds" chooses it by cross-validation on the training split, "dev" on the dev split. Where "dev" is the split
    *asked for*, the score is the accuracy that the strength is chosen by (SentEval's ``devacc``; of "nested" the mean
    over the outer folds) and a test split is not read. "auto" is for own data: "folds" where they have a training
    split beside the one asked for, else "nested", with fewer folds where a class is small. ``fidelity``: the
    classifier. ``train``, ``dev``: names of these splits in the file. ``shots``: rows of each class for low-shot
    accuracies, the mean of ``draws`` draws. ``curve``: numbers of training rows, or shares of them (1.0 is all), for
    the curve of utility against labels: mean and spread of ``draws`` draws each. ``mean_classifier``: also the
    classifier of class means. ``neighbours``: also a vote of so many nearest neighbours. These four are for protocols
    with a test set. ``limit``: only so many rows of each split, the same ones for every model; a departure from the
    protocol that is noted.

    Examples
    --------
    >>> ProbeSettings(protocol="nested", folds=5).fidelity
    'scikit-learn'
    """

    protocol: Literal["nested", "folds", "dev", "auto"] = "folds"
    fidelity: Fidelity = "scikit-learn"
    folds: int = Field(10, gt=1)
    fold_seed: int = FOLD_SEED
    train: str = "train"
    dev: str = "dev"
    label: str = "label"
    shots: Annotated[tuple[int, ...], Distinct] = ()
    curve: Annotated[tuple[Rows, ...], Distinct] = ()
    draws: int = Field(10, gt=0)
    mean_classifier: bool = False
    neighbours: int | None = Field(None, gt=0)
    limit: int | None = Field(None, gt=0)


@TASKS.add("probe")
class ProbeTask(Task):
    """Accuracy x 100 of a classifier on frozen vectors (SentEval's transfer tasks; linear probes of image encoders).

    Data: columns ``label`` and ``text``, or ``sentence1`` and ``sentence2`` (features [abs(u - v), u * v]), or
    ``image``; and ``split``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> lengths = SimpleNamespace(encode=lambda texts: np.array([[len(text), 1.0] for text in texts]))
    >>> cells = {"text": ["cat", "dog", "cow", "ape", "an old boat", "a big house", "a tall tree", "a wide river"]}
    >>> cells["label"] = ["animal"] * 4 + ["thing"] * 4
    >>> config = TaskConfig(name="words", kind="probe", settings={"protocol": "nested", "folds": 2})
    >>> task = ProbeTask(config, Opening(Table(cells, list(range(8)), "words"), "test"))
    >>> task.score(Embedder(lengths)).metrics["accuracy"]
    100.0
    """

    settings_type = ProbeSettings
    hub_type = "classification"

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        data = self._own(opening.data) if config.own and isinstance(opening.data, Table) else opening.data
        s = self.settings
        if s.protocol == "auto":
            raise UserError("protocol auto is for own data", where=f"task {self.name}: settings.protocol",
                            remedy="choose nested, folds or dev")  # fmt: skip
        if s.fidelity == "scikit-learn" or s.protocol != "dev":  # folds are its, too
            need("scikit-learn", "eval", "a classification probe", module="sklearn")
        own_name = config.in_file(opening.split)
        names = {"nested": [], "folds": [s.train], "dev": [s.train, s.dev]}[s.protocol]
        names = list(dict.fromkeys([*names, own_name if isinstance(own_name, str) else own_name[0]]))
        self.tables = [self._limited(table) for table in open_splits(config, data, names, opening.folder)]
        for table in self.tables:
            table.require(s.label)
        self.classes = sorted({class_of(cell) for table in self.tables for cell in table.columns[s.label]})
        if len(self.classes) < 2:
            what = "fewer than two classes"
            raise DataError(what, where=self.tables[0].source, remedy="give rows of two classes at least")
        self.parts = [self._inputs(table) for table in self.tables]
        if config.own:
            self._fewer_folds()
        self.expect_rows(len(self.tables[-1]))
        self._check_extras()

    def _check_extras(self) -> None:
        """Refuse or note what needs a test set where there is none; refuse a curve with too few rows."""
        s = self.settings
        extras = [key for key in ("curve", "mean_classifier") if getattr(s, key)]
        if s.protocol == "nested" or self.split == "dev":
            if extras:
                raise UserError(f"{extras[0]} needs a training split and a test split", where=f"task {self.name}",
                                remedy="give the rows a column split with train and test")  # fmt: skip
            idle = [key for key in ("shots", "neighbours") if getattr(s, key)]
            self.notes += [f"{self.name}: {key}: nothing, without a training split and a test split" for key in idle]
            return
        least = min((self._count(size) for size in s.curve), default=len(self.classes))
        if least < len(self.classes):
            raise UserError(f"a curve of {least} rows has fewer than the {len(self.classes)} classes",
                            where=f"task {self.name}: settings.curve", remedy="raise it")  # fmt: skip
        smallest = int(np.bincount(self.parts[0][1], minlength=len(self.classes)).min())
        many = [shots for shots in s.shots if shots > smallest]
        if many:
            self.notes.append(f"{self.name}: {many[0]} shots are more than the {smallest} rows of the smallest class, "
                              "which gives all that it has")  # fmt: skip

    def _own(self, table: Table) -> Table:
        """Own data under the names that are read here; chooses the protocol where it is "auto"."""
        s = self.settings
        if "image" not in table.columns and not {"sentence1", "sentence2", s.label} <= set(table.columns):
            table = self.own_table(table, {"anchor": "text", "label": s.label})
        splits = {same_split(str(cell)) for cell in table.columns.get("split", ())}
        if s.protocol == "auto":
            both = same_split(s.train) in splits and same_split(self.split) in splits - {same_split(s.train)}
            words = "learned on split train" if both else "by cross-validation: there are no splits train and test"
            self.notes.append(f"{self.name}: classifier {words}")
            self.settings = s.model_copy(update={"protocol": "folds" if both else "nested"})
        return table

    def _fewer_folds(self) -> None:
        """Lower the number of folds where a class has too few rows for it.

        Raises
        ------
        DataError
            A class is too small for any cross-validation.
        """
        s, labels = self.settings, self.parts[0][1]
        counts = np.bincount(labels, minlength=len(self.classes))
        smallest = int(counts.min())
        inner = (lambda k: smallest - -(-smallest // k)) if s.protocol == "nested" else (lambda k: smallest)
        folds = next((k for k in range(s.folds, 1, -1) if smallest >= k and inner(k) >= k), None)
        if folds is None:
            name, needed = self.classes[int(counts.argmin())], 4 if s.protocol == "nested" else 2
            raise DataError(f"class {name!r} has {smallest} rows", where=self.tables[0].source,
                            remedy=f"give each class {needed} rows at least")  # fmt: skip
        if folds < s.folds:
            self.notes.append(f"{self.name}: {folds} folds, not {s.folds}: the smallest class has {smallest} rows")
            self.settings = s.model_copy(update={"folds": folds})

    @classmethod
    def reading(cls, look: Look) -> str | None:
        """Texts with classes, of which some stand more than once."""
        roles = look.roles
        if not {"anchor", "label"} <= set(roles) or {"positive", "image"} & set(roles):
            return None
        classes = len(set(map(class_of, look.cells("label"))))
        if not 2 <= classes <= max(2, len(look.cells("label")) // 2):
            return None
        return f"texts of {classes} classes (columns {roles['anchor']!r}, {roles['label']!r})"

    def _limited(self, table: Table) -> Table:
        """The table, or `limit` random rows of it in their order."""
        if self.settings.limit is None or len(table) <= self.settings.limit:
            return table
        self.notes.append(f"{self.name}: {self.settings.limit:,} of {len(table):,} rows: not comparable")
        order = generator(self.opening.seed, f"{self.name}/limit").permutation(len(table))
        return table.take(sorted(order[: self.settings.limit].tolist()))

    def _inputs(self, table: Table) -> tuple[list[list[Item]], Array]:
        """The inputs of the rows, one list or two, and the labels as integers (N,)."""
        number = {name: place for place, name in enumerate(self.classes)}
        labels = np.array([number[class_of(cell)] for cell in table.columns[self.settings.label]])
        inputs: list[list[Item]]
        if "image" in table.columns or "text" in table.columns:
            inputs = [inputs_of(table)]
        else:
            inputs = [inputs_of(table, "sentence1"), inputs_of(table, "sentence2")]
        return inputs, labels

    @property
    def data(self) -> dict[str, Any]:
        """Source, rows of each split, and the hash of inputs and labels."""
        columns = [cells for inputs, labels in self.parts for cells in [*inputs, labels.tolist()]]
        rows = [len(table) for table in self.tables]
        return {"source": self.tables[-1].source, "rows": rows[-1], "splits": rows, "sha256": content_hash(*columns)}

    def requests(self) -> list[Request]:
        """All inputs of all splits."""
        return [Request(cells) for inputs, _ in self.parts for cells in inputs]

    def _features(self, embed: Embedder) -> list[Labelled]:
        """Vectors (N, D), or (N, 2D) for pairs, and labels, by split."""
        outcome = []
        for inputs, labels in self.parts:
            vectors = [embed(cells) for cells in inputs]
            x = vectors[0]
            if len(vectors) == 2:
                x = np.concatenate([np.abs(vectors[0] - vectors[1]), vectors[0] * vectors[1]], axis=1)
            outcome.append((x, labels))
        return outcome

    def as_mteb(self) -> list[MtebPart]:
        """A classification of mteb, trained on the first split and scored on the last."""
        from mteb.abstasks.classification import AbsTaskClassification

        if len(self.parts) < 2 or len(self.parts[0][0]) > 1:
            raise UserError(
                "has one split, or pairs of texts, which mteb's classification has not",
                where=f"task {self.name}", remedy="leave mteb: out, which is embedkit's own suite",
            )  # fmt: skip
        import datasets

        parts = {
            name: labelled(inputs[0], "label", labels.tolist())
            for name, (inputs, labels) in (("train", self.parts[0]), ("test", self.parts[-1]))
        }
        column = column_of(self.parts[0][0][0])
        return [MtebPart(AbsTaskClassification, "Classification", f"{column[0]}2c", "accuracy", (column,),
                         datasets.DatasetDict(parts), {"input_column_name": column})]  # fmt: skip

    def score(self, embed: Embedder) -> TaskResult:
        """Accuracy, F1 where there are two classes, and what else the settings ask for."""
        s, parts = self.settings, self._features(embed)
        probe = self._probe()
        x, y = parts[-1]
        details: dict[str, Any] = {"classes": len(self.classes), "rows": [len(labels) for _, labels in parts]}
        if self.split == "dev":
            return self._on_dev(probe, parts, details)
        metrics: dict[str, float] = {}
        if s.protocol == "nested":
            predictions, accuracies, strengths = probe.nested(x, y)
            metrics["accuracy"] = 100 * float(np.mean(accuracies))
            details |= {"folds": [100 * a for a in accuracies], "strengths": strengths}
        else:
            strength, on_dev = self._choice(probe, parts)
            predictions = probe.fit(parts[0], strength, parts[1] if s.protocol == "dev" else None)(x)
            metrics["accuracy"] = 100 * float((predictions == y).mean())
            metrics["dev_accuracy"] = 100 * on_dev
            details["strengths"] = [strength]
            metrics |= self._others(probe, parts)
        if len(self.classes) == 2:
            metrics["f1"] = 100 * _f1(predictions, y)
        samples = Samples("mean", {"value": (predictions == y).astype(np.int64)})
        return TaskResult(self.name, "accuracy", metrics["accuracy"], metrics, samples, details=details,
                          notes=self._notes(probe))  # fmt: skip

    def _probe(self) -> Probe:
        """The classifiers as the settings have them."""
        return Probe(self.settings.fidelity, self.settings.folds, self.settings.fold_seed, len(self.classes))

    def _notes(self, probe: Probe) -> list[str]:
        """Notes on the data and on the classifiers."""
        stopped = f"{self.name}: {probe.stopped} logistic regressions ended before they met their optimum"
        return self.notes + ([stopped] if probe.stopped else [])

    def _choice(self, probe: Probe, parts: list[Labelled]) -> tuple[float, float]:
        """The strength for a protocol with a test set, and the accuracy (0..1) that chose it."""
        if self.settings.protocol == "dev":
            return probe.choose_on(parts[0], parts[1])
        return probe.choose(*parts[0], wide=True)

    def _on_dev(self, probe: Probe, parts: list[Labelled], details: dict[str, Any]) -> TaskResult:
        """The accuracy that strengths are chosen by; no classifier is scored on rows that did not choose it."""
        if self.settings.protocol == "nested":
            choices = [choice for *_, choice in probe.chosen_by_fold(*parts[0])]
        else:
            choices = [self._choice(probe, parts)]
        accuracy = 100 * float(np.mean([on_dev for _, on_dev in choices]))
        details |= {"strengths": [strength for strength, _ in choices]}
        return TaskResult(self.name, "dev_accuracy", accuracy, {"dev_accuracy": accuracy}, details=details,
                          notes=self._notes(probe))  # fmt: skip

    def _others(self, probe: Probe, parts: list[Labelled]) -> dict[str, float]:
        """Nearest neighbours and low-shot accuracies, where they are asked for."""
        s, (train_x, train_y), (x, y) = self.settings, parts[0], parts[-1]
        outcome = {}
        if s.neighbours is not None:
            votes = nearest_neighbours((train_x, train_y), x, s.neighbours)
            outcome["knn_accuracy"] = 100 * float((votes == y).mean())
        for shots in s.shots:
            accuracies = []
            for draw in range(s.draws):
                rows = few_of_each(train_y, shots, generator(self.opening.seed, f"{self.name}/{shots}/{draw}"))
                # the strength cannot be chosen from so few rows; 1 is scikit-learn's default
                few = Probe("scikit-learn", probe.folds, probe.seed, probe.classes)
                accuracies.append(float((few.fit((train_x[rows], train_y[rows]), 1.0)(x) == y).mean()))
                probe.stopped += few.stopped
            outcome[f"accuracy_{shots}_shot"] = 100 * float(np.mean(accuracies))
            outcome[f"accuracy_{shots}_shot_std"] = 100 * float(np.std(accuracies))
        if s.mean_classifier:
            outcome["mean_classifier_accuracy"] = 100 * float((class_means(parts[0], x) == y).mean())
        return outcome | self._curve(probe, parts)

    def _count(self, size: int | float) -> int:
        """The training rows that a number or a share stands for, all at most."""
        total = len(self.parts[0][1])
        return min(size, total) if isinstance(size, int) else max(1, round(size * total))

    def _curve(self, probe: Probe, parts: list[Labelled]) -> dict[str, float]:
        """Accuracy by the number of labels: mean and spread over draws, each draw's larger sets holding its smaller."""
        (train_x, train_y), (x, y) = parts[0], parts[-1]
        counts = [self._count(size) for size in self.settings.curve]
        accuracies = np.zeros((self.settings.draws, len(counts)))
        few = Probe("scikit-learn", probe.folds, probe.seed, probe.classes)
        for draw in range(len(accuracies)) if counts else ():
            order = balanced_order(train_y, generator(self.opening.seed, f"{self.name}/curve/{draw}"))
            for place, count in enumerate(counts):
                rows = np.sort(order[:count])
                accuracies[draw, place] = (few.fit((train_x[rows], train_y[rows]), 1.0)(x) == y).mean()
        probe.stopped += few.stopped
        outcome = {}
        for place, count in enumerate(counts):
            outcome[f"accuracy_{count}_rows"] = 100 * float(accuracies[:, place].mean())
            outcome[f"accuracy_{count}_rows_std"] = 100 * float(accuracies[:, place].std())
        return outcome


def _f1(predictions: Array, y: Array) -> float:
    """F1 of class 1, the class whose name sorts last."""
    hits = float(((predictions == 1) & (y == 1)).sum())
    total = float((predictions == 1).sum() + (y == 1).sum())
    return 2 * hits / total if total else 0.0
