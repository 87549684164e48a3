"""DiscoEval: what a sentence vector says about the text around the sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from embedkit.data.sources.class_names import class_of
from embedkit.errors import UserError, need
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.inputs import Item
from embedkit.evaluation.core.stats import Array
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Task
from embedkit.evaluation.datasets.discourse import SENTENCES, Form, read_discourse
from embedkit.evaluation.datasets.look import Look
from embedkit.evaluation.datasets.tables import Table
from embedkit.evaluation.measures.probes import SENTEVAL, Labelled, Probe
from embedkit.evaluation.tasks.probe import ProbeSettings, ProbeTask


class DiscourseSettings(ProbeSettings):
    """What a row is, and how the authors' classifier is set for it.

    ``form``: "position" (SP: which place the first of five sentences had), "order" (BSO: two sentences as they stood,
    and swapped), "coherence" (DC: six sentences), "section" (SSP: one), "relation" (PDTB: two), "tree" (RST: two
    lists of units). ``fidelity``: "scikit-learn" chooses its strength on the split valid; "senteval" is the authors'
    classifier, with ``hidden`` units, ``patience``, ``epochs_per_look``, ``most_epochs``, and one ``strength`` where
    they have one.

    Examples
    --------
    >>> DiscourseSettings(form="section").protocol
    'dev'
    """

    form: Form = "section"
    protocol: Literal["dev"] = "dev"
    dev: str = "valid"
    hidden: int = Field(0, ge=0)
    patience: int = Field(5, gt=0)
    epochs_per_look: int = Field(4, gt=0)
    most_epochs: int = Field(200, gt=0)
    strength: float | None = None


@TASKS.add("discourse")
class DiscourseTask(ProbeTask):
    """Accuracy x 100 of a classifier on frozen sentence vectors, joined as DiscoEval joins them (Chen et al. 2019).

    Features: [x1, x1 - x2 ... x1 - x5] for places, [x1, x2, x1 - x2] for order, all six vectors for coherence, the
    vector for sections, [a, b, a * b, abs(a - b)] for relations and for the mean vectors of the units of two
    sub-trees. Two figures of the paper are superseded by the README: SSP was run with 2,000 hidden units by mistake,
    and the data of SP were made anew so that the other four sentences keep their order.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> words = SimpleNamespace(encode=lambda texts: np.array([["seems" in text, 1.0] for text in texts], float))
    >>> config = TaskConfig(name="ssp", kind="discourse", file="builtin:stories", settings={"form": "section"})
    >>> DiscourseTask(config, Opening(None, "test")).score(Embedder(words)).score
    100.0
    """

    settings_type = DiscourseSettings

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        Task.__init__(self, config, opening)
        s = self.settings
        if s.fidelity == "scikit-learn":
            need("scikit-learn", "eval", "a classification probe", module="sklearn")
        if isinstance(opening.data, Table):
            raise UserError("DiscoEval is a folder of files, not a table", where=f"task {self.name}",
                            remedy="name the folder data of the release: --data FOLDER")  # fmt: skip
        own_name = config.in_file(opening.split)
        names = list(dict.fromkeys([s.train, s.dev, own_name if isinstance(own_name, str) else own_name[0]]))
        tables = [read_discourse(opening.data, config.file or config.name, opening.folder, s.form, n) for n in names]
        self.tables = [self._limited(table) for table in tables]
        labels = [cell for table in self.tables for cell in table.columns.get("label", ["0", "1"])]
        self.classes = sorted(set(map(class_of, labels)))
        self.parts = [self._inputs(table) for table in self.tables]
        self.expect_rows(len(self.parts[-1][1]))
        self._check_extras()

    @classmethod
    def reading(cls, look: Look) -> str | None:
        """Never guessed: the folders have names of their own."""
        return None

    def _inputs(self, table: Table) -> tuple[list[list[Item]], Array]:
        """The sentences by their place in the row, and the labels; an order counts once as it is and once swapped."""
        form, count = self.settings.form, SENTENCES[self.settings.form]
        inputs: list[list[Item]] = []
        for place in range(1, count + 1):
            name = f"text_{place}"
            if form == "tree":
                inputs.append([unit for units in table.lists(name) for unit in units])
            else:
                inputs.append(list(table.texts(name)))
        if form == "order":
            return inputs, np.repeat([1, 0], len(table))
        number = {name: place for place, name in enumerate(self.classes)}
        return inputs, np.array([number[class_of(cell)] for cell in table.columns["label"]])

    def _features(self, embed: Embedder) -> list[Labelled]:
        outcome = []
        for (inputs, labels), table in zip(self.parts, self.tables, strict=True):
            vectors = [embed(cells) for cells in inputs]
            if self.settings.form == "tree":
                vectors = [_means(x, table.lists(f"text_{place}")) for place, x in enumerate(vectors, start=1)]
            outcome.append((joined(self.settings.form, vectors), labels))
        return outcome

    def _probe(self) -> Probe:
        """The probe; SentEval's with the settings that the authors give it for this form."""
        s, probe = self.settings, super()._probe()
        if s.fidelity in SENTEVAL:
            steps = {key: getattr(s, key) for key in ("hidden", "patience", "epochs_per_look", "most_epochs")}
            probe.settings = replace(SENTEVAL[s.fidelity], **steps)
            probe.strengths = () if s.strength is None else (s.strength,)
        return probe


def joined(form: Form, vectors: list[Array]) -> Array:
    """The features (N, F) of rows from the vectors of their sentences, a list of (N, D) by place; (2N, F) for an order.

    Examples
    --------
    >>> x = [np.array([[1.0]]), np.array([[3.0]])]
    >>> joined("order", x).tolist(), joined("relation", x).tolist()
    ([[1.0, 3.0, -2.0], [3.0, 1.0, 2.0]], [[1.0, 3.0, 3.0, 2.0]])
    """
    first = vectors[0]
    if form == "position":
        return np.concatenate([first, *(first - other for other in vectors[1:])], axis=1)
    if form == "order":
        forward = np.concatenate([first, vectors[1], first - vectors[1]], axis=1)
        return np.concatenate([forward, np.concatenate([vectors[1], first, vectors[1] - first], axis=1)])
    if form in ("relation", "tree"):
        return np.concatenate([first, vectors[1], first * vectors[1], np.abs(first - vectors[1])], axis=1)
    return np.concatenate(vectors, axis=1)


def _means(vectors: Array, units: list[list[Any]]) -> Array:
    """Mean vectors (N, D) of the units of each row, whose vectors stand one after the other."""
    starts = np.cumsum([0, *(len(row) for row in units[:-1])])
    return np.add.reduceat(vectors, starts, axis=0) / np.array([[len(row)] for row in units])
