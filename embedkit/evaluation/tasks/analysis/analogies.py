"""Word analogies: a is to b as c is to d."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from embedkit.errors import DataError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.stats import Array, Samples, generator, unit_rows
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.datasets.tables import Table, content_hash, open_table, read_lines
from embedkit.evaluation.measures.analogies import pairing_consistency, ranked_first

_FORMS = "lines `a b c d` under `: relation` (Google), lines `word<TAB>answer/answer` (BATS), or columns a, b, c, d"


class AnalogySettings(TaskSettings):
    """``vocabulary``: a file of further words, one a line, that may be taken for an answer. ``shuffles``: of the
    pairs of a relation, for the parallel-offset score.

    Examples
    --------
    >>> AnalogySettings().shuffles
    50
    """

    vocabulary: str | None = None
    shuffles: int = Field(50, gt=0)


@dataclass(frozen=True)
class Question:
    """``a`` is to ``b`` as ``c`` is to one of ``answers``.

    Examples
    --------
    >>> Question("gender", "man", "king", "woman", ("queen",)).answers
    ('queen',)
    """

    relation: str
    a: str
    b: str
    c: str
    answers: tuple[str, ...]


def questions_of(table: Table) -> list[Question]:
    """The questions of a table in one of the three forms.

    Raises
    ------
    DataError
        A line has another form, or a relation has one pair only.

    Examples
    --------
    >>> questions_of(Table({"text": [": gender", "man king woman queen"]}, [1, 2], "q.txt"))
    [Question(relation='gender', a='man', b='king', c='woman', answers=('queen',))]
    """
    if {"a", "b", "c", "d"} <= set(table.columns):
        cells = [table.texts(name) for name in "abcd"]
        names = table.texts("relation") if "relation" in table.columns else ["all"] * len(table)
        return [Question(name, a, b, c, (d,)) for name, a, b, c, d in zip(names, *cells, strict=True)]
    if "text" not in table.columns:
        raise DataError("no analogies", where=table.source, remedy=f"give {_FORMS}")
    lines = [str(cell) for cell in table.columns["text"]]
    return _google(table, lines) if any(line.lstrip().startswith(":") for line in lines) else _bats(table, lines)


def _google(table: Table, lines: list[str]) -> list[Question]:
    relation, questions = "all", []
    for row, line in enumerate(lines):
        words = line.split()
        if words[:1] and words[0].startswith(":"):
            relation = line.strip().lstrip(":").strip() or "all"
        elif len(words) == 4:
            questions.append(Question(relation, words[0], words[1], words[2], (words[3],)))
        else:
            raise DataError(f"{len(words)} words, not four", where=table.place(row), remedy=f"give {_FORMS}")
    return questions


def _bats(table: Table, lines: list[str]) -> list[Question]:
    """Every ordered two pairs of a relation, as BATS asks; the first answer of a pair is its b."""
    relations: dict[str, list[tuple[str, tuple[str, ...]]]] = defaultdict(list)
    for row, line in enumerate(lines):
        word, tab, rest = line.strip().partition("\t")
        answers = tuple(answer.strip() for answer in rest.split("/") if answer.strip())
        if not tab or not word.strip() or not answers:
            raise DataError("no analogy in this line", where=table.place(row), remedy=f"give {_FORMS}")
        source = table.sources[row] if table.sources else table.source
        relations[Path(source).stem].append((word.strip(), answers))
    questions = []
    for name, pairs in relations.items():
        if len(pairs) < 2:
            raise DataError(f"relation {name!r} has one pair", where=table.source, remedy="give two pairs at least")
        questions += [
            Question(name, a, b[0], c, answers)
            for i, (a, b) in enumerate(pairs)
            for j, (c, answers) in enumerate(pairs)
            if i != j
        ]
    return questions


@TASKS.add("analogies")
class AnalogyTask(Task):
    """Accuracy x 100 of 3CosAdd (Mikolov et al. 2013) over all questions; also 3CosMul (Levy and Goldberg 2014) and the
    pairing consistency of offsets (Fournier et al. 2020), by relation in the details.

    The answer is the word nearest to b - a + c that is none of the three, among all words of the data and of the file
    ``vocabulary``. Data: Google's question file, a folder of BATS, or a table of ``a``, ``b``, ``c``, ``d`` and
    ``relation``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> places = {"man": [1, 0], "king": [1, 1], "woman": [-1, 0], "queen": [-1, 1], "cow": [0, -1]}
    >>> model = SimpleNamespace(encode=lambda words: np.array([places[word] for word in words], dtype=float))
    >>> cells = {"a": ["man"], "b": ["king"], "c": ["woman"], "d": ["queen"]}
    >>> task = AnalogyTask(TaskConfig(name="words", kind="analogies"), Opening(Table(cells, [2], "q.csv"), "test"))
    >>> task.score(Embedder(model)).metrics["3cosadd"]
    100.0
    """

    settings_type = AnalogySettings

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        table = open_table(config, opening.data, opening.split, opening.folder)
        table.require(*self.settings.columns)
        table = table.renamed(self.settings.columns)
        self.source = table.source
        self.questions = questions_of(table)
        if not self.questions:
            raise DataError("no question", where=table.source, remedy=f"give {_FORMS}")
        words = dict.fromkeys(word for q in self.questions for word in (q.a, q.b, q.c, *q.answers))
        if self.settings.vocabulary is not None:
            more = [" ".join(line.split()) for _, line in read_lines(Path(self.settings.vocabulary))]
            words |= dict.fromkeys(word for word in more if word)
        self.words = list(words)
        self.notes.append(f"{self.name}: answers are looked for among {len(self.words):,} words")

    @property
    def data(self) -> dict[str, Any]:
        """Source, questions, words and the hash of both."""
        queries = [[q.relation, q.a, q.b, q.c, list(q.answers)] for q in self.questions]
        return {"source": self.source, "rows": len(queries), "words": len(self.words),
                "sha256": content_hash(queries, self.words)}  # fmt: skip

    def requests(self) -> list[Request]:
        """All words."""
        return [Request(self.words)]

    def score(self, embed: Embedder) -> TaskResult:
        """3CosAdd over all questions."""
        vectors = unit_rows(embed(self.words).astype(np.float64))
        place = {word: number for number, word in enumerate(self.words)}
        queries = np.array([[place[q.a], place[q.b], place[q.c]] for q in self.questions])
        right = {
            name: np.array([self.words[word] in q.answers for word, q in zip(first, self.questions, strict=True)])
            for name, first in ranked_first(vectors, queries).items()
        }
        details: dict[str, Any] = {"relations": self._by_relation(right, vectors, place)}
        metrics = {name: 100 * float(values.mean()) for name, values in right.items()}
        parallel = [part["pairing_consistency"] for part in details["relations"].values()]
        if any(np.isfinite(value) for value in parallel):
            metrics["pairing_consistency"] = float(np.nanmean(parallel))
        samples = Samples("mean", {"value": right["3cosadd"].astype(np.int64)})
        return TaskResult(self.name, "3cosadd", metrics["3cosadd"], metrics, samples, details=details,
                          notes=list(self.notes))  # fmt: skip

    def _by_relation(self, right: dict[str, Array], vectors: Array, place: dict[str, int]) -> dict[str, Any]:
        relations: dict[str, list[int]] = defaultdict(list)
        for row, question in enumerate(self.questions):
            relations[question.relation].append(row)
        figures = {}
        for name, rows in relations.items():
            queries = [self.questions[row] for row in rows]
            pairs = dict.fromkeys((q.a, q.b) for q in queries) | dict.fromkeys((q.c, q.answers[0]) for q in queries)
            first, second = (vectors[[place[pair[side]] for pair in pairs]] for side in (0, 1))
            rng = generator(self.opening.seed, f"{self.name}/{name}")
            consistency = 100 * pairing_consistency(first, second, self.settings.shuffles, rng)
            scores = {key: 100 * float(values[rows].mean()) for key, values in right.items()}
            figures[name] = {"questions": len(rows), **scores, "pairing_consistency": consistency}
        return figures
