"""Zero-shot classification: the class whose name, put into templates, is nearest."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from embedkit.config.settings import Distinct
from embedkit.errors import DataError, NonFiniteError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.gallery import search_examples
from embedkit.evaluation.core.inputs import Item
from embedkit.evaluation.core.stats import Array, Samples, unit_rows
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.datasets.look import Look
from embedkit.evaluation.datasets.tables import content_hash, open_table
from embedkit.evaluation.mteb.parts import MtebPart, column_of, labelled


class ZeroShotSettings(TaskSettings):
    """``templates``: with ``{}`` where the class name goes; several are an ensemble. ``label``: the column with the
    class, whose values are the names unless ``names`` maps them to better ones.

    Examples
    --------
    >>> ZeroShotSettings(templates=("a photo of a {}.", "a drawing of a {}."), names={"crane": "crane bird"}).label
    'label_name'
    """

    templates: Annotated[tuple[str, ...], Distinct] = Field(("a photo of a {}.",), min_length=1)
    label: str = "label_name"
    names: dict[str, str] = Field(default_factory=dict)


def class_vectors(vectors: Array) -> Array:
    """One unit vector a class, (C, D), from those of its templates (C, T, D): normalise, mean, normalise.

    CLIP (Radford et al. 2021, section 3.1.4). The mean before normalising, or of the scores, is another method.

    Examples
    --------
    >>> class_vectors(np.array([[[3.0, 0.0], [0.0, 5.0]]])).round(3).tolist()
    [[0.707, 0.707]]
    """
    classes, templates, dim = vectors.shape
    unit = unit_rows(vectors.reshape(classes * templates, dim).astype(np.float64)).reshape(vectors.shape)
    return unit_rows(unit.mean(axis=1))


@TASKS.add("zero-shot")
class ZeroShotTask(Task):
    """Top-1 accuracy x 100; also top-5, the mean of the accuracies by class, and the first template alone.

    Data: a label column and ``image`` or ``text``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.evaluation.datasets.tables import Table
    >>> vowels = SimpleNamespace(encode=lambda texts: np.array([[t.count(c) for c in "aeiou"] for t in texts], float))
    >>> cells = {"text": ["banana salad", "red beet stew"], "label_name": ["banana", "beet"]}
    >>> config = TaskConfig(name="food", kind="zero-shot", settings={"templates": ["{}"]})
    >>> task = ZeroShotTask(config, Opening(Table(cells, [1, 2], "food"), "test"))
    >>> task.score(Embedder(vowels)).metrics["top1"]
    100.0
    """

    settings_type = ZeroShotSettings
    hub_type = "zero-shot-classification"

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        s = self.settings
        wrong = [template for template in s.templates if template.count("{}") != 1]
        if wrong:
            what = f"the template {wrong[0]!r} must have one {{}}"
            raise DataError(what, where=f"task {self.name}", remedy="mark the place of the name with {}")
        table = open_table(config, opening.data, opening.split, opening.folder)
        if config.own and s.label not in table.columns and "image" in table.columns:
            table = self.own_table(table, {"image": "image", "label": s.label})
        table.require(s.label)
        self.source = table.source
        self.items: list[Item] = list(table.images("image") if "image" in table.columns else table.texts("text"))
        labels = [str(cell) for cell in table.columns[s.label]]
        self.classes = sorted(set(labels))
        if len(self.classes) < 2:
            raise DataError("fewer than two classes", where=table.source, remedy="give rows of two classes at least")
        strangers = sorted(set(s.names) - set(self.classes))
        if strangers:
            what = f"settings.names has a class {strangers[0]!r} that no row has"
            raise DataError(what, where=f"task {self.name}", remedy="check its spelling, or leave it out")
        number = {name: place for place, name in enumerate(self.classes)}
        self.labels = np.array([number[label] for label in labels])
        self.class_names = [s.names.get(name, name) for name in self.classes]
        if len(set(self.class_names)) < len(self.class_names):
            where = f"task {self.name}: settings.names"
            raise DataError("two classes have the same name", where=where, remedy="give each a name of its own")
        self.prompts = [template.replace("{}", name) for name in self.class_names for template in s.templates]
        self.expect_rows(len(labels))

    @classmethod
    def reading(cls, look: Look) -> str | None:
        """Images with classes and without captions."""
        if not {"image", "label"} <= set(look.roles) or "texts" in look.roles:
            return None
        return f"images of classes (column {look.roles['label']!r}), to be recognised by the names of the classes"

    @property
    def data(self) -> dict[str, Any]:
        """Source, rows, classes and the hash of inputs and labels."""
        digest = content_hash(self.items, self.labels.tolist(), self.classes)
        return {"source": self.source, "rows": len(self.items), "classes": len(self.classes), "sha256": digest}

    def requests(self) -> list[Request]:
        """The inputs, and every class name in every template."""
        return [Request(self.items), Request(self.prompts)]

    def as_mteb(self) -> list[MtebPart]:
        """A zero-shot classification of mteb, which has one prompt a class: the first template."""
        import datasets
        from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

        labels = list(self.prompts[:: len(self.settings.templates)])
        data = {"default": datasets.DatasetDict(test=labelled(self.items, "label", self.labels.tolist()))}
        column = column_of(self.items)
        more = {"input_column_name": column, "get_candidate_labels": lambda self: labels}
        modalities = tuple(dict.fromkeys([column, "text"]))
        return [MtebPart(AbsTaskZeroShotClassification, "ZeroShotClassification", f"{column[0]}2t", "accuracy",
                         modalities, data, more)]  # fmt: skip

    def score(self, embed: Embedder) -> TaskResult:
        """Accuracies of the nearest class."""
        items = unit_rows(embed(self.items).astype(np.float64))
        prompts = embed(self.prompts)
        count = len(self.settings.templates)
        names = class_vectors(prompts.reshape(len(self.classes), count, prompts.shape[1]))
        if items.shape[1] != names.shape[1]:
            what = f"inputs have {items.shape[1]} numbers, class names {names.shape[1]}"
            raise DataError(what, where="the model", remedy="give both towers one size of vector")
        scores = items @ names.T  # (N, C)
        if np.ptp(scores) == 0:
            raise NonFiniteError("every class has the same score for every input", where=f"task {self.name}")
        ranking = np.argsort(-scores, axis=1, kind="stable")  # equal scores: the class whose name sorts first
        right = ranking == self.labels[:, None]
        by_class = [float(right[self.labels == label, 0].mean()) for label in range(len(self.classes))]
        first = unit_rows(prompts[::count].astype(np.float64))
        metrics = {
            "top1": 100 * float(right[:, 0].mean()),
            "top5": 100 * float(right[:, :5].any(axis=1).mean()),
            "mean_per_class": 100 * float(np.mean(by_class)),
            "top1_first_template": 100 * float(((items @ first.T).argmax(axis=1) == self.labels).mean()),
        }
        details = {
            "classes": len(self.classes), "templates": count,
            "by_class": {name: 100 * value for name, value in zip(self.classes, by_class, strict=True)},
        }  # fmt: skip
        samples = Samples("mean", {"value": right[:, 0].astype(np.int64)})
        examples = search_examples(
            "input to class", self.items, self.class_names, np.take_along_axis(scores, ranking, 1), ranking, right,
            lambda row: (int(self.labels[row]), float(scores[row, self.labels[row]])),
        )  # fmt: skip
        return TaskResult(self.name, "top1", metrics["top1"], metrics, samples, details=details, notes=list(self.notes),
                          examples=examples)  # fmt: skip
