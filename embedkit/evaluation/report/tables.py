"""Tables of a report for programs that show some: scores with intervals, every metric, what the model does worst on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedkit.evaluation.report.rendering import one_line
from embedkit.evaluation.report.report import Report

Cell = str | float | None


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Attributes
    ----------
    name : str
        What it is called, with slashes: ``eval/sts/scores``.
    columns : sequence of str
    rows : sequence of sequences of str, float or None
        A cell a column.

    Examples
    --------
    >>> print(Table("eval/sts/scores", ["task", "score"], [["stsb", 82.4]]).markdown())
    | task | score |
    |---|---|
    | stsb | 82.4 |
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def markdown(self) -> str:
        """The table in Markdown; numbers to six digits."""
        lines = [self.columns, *self.rows]
        texts = ["| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines]
        return "\n".join([texts[0], "|" + "---|" * len(self.columns), *texts[1:]])


def _text(cell: Cell) -> str:
    return "" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else one_line(cell)


def tables_of(report: Report) -> list[Table]:
    """The tables of a report: its scores, all metrics of its tasks, and for each task what the model does worst on.

    Examples
    --------
    >>> from embedkit.evaluation.core.task import TaskResult
    >>> result = TaskResult("faq", "ndcg@10", 61.2, {"ndcg@10": 61.2}, worst=[{"query": "when?"}])
    >>> report = Report("own-retrieval", {"faq": result}, {"faq": 61.2}, "faq", {"name": "mine"}, {"split": "test"})
    >>> [(table.name, table.rows) for table in tables_of(report)][1:]
    [('eval/own-retrieval/metrics', [['faq', 'ndcg@10', 61.2]]), ('eval/own-retrieval/worst/faq', [['when?']])]
    """
    start = f"eval/{report.suite}"
    scores: list[list[Cell]] = []
    for name, score in report.scores.items():
        metric, bounds = report.score_facts(name)
        scores.append([name, metric, float(score), *(bounds or (None, None))])
    metrics: list[list[Cell]] = []
    for name, result in report.tasks.items():
        metrics += [[name, metric, float(value)] for metric, value in result.metrics.items()]
    tables = [
        Table(f"{start}/scores", ["task", "metric", "score", "95 % from", "95 % to"], scores),
        Table(f"{start}/metrics", ["task", "metric", "value"], metrics),
    ]
    for name, result in report.tasks.items():
        if result.worst:
            columns = list(result.worst[0])
            rows = [[row.get(column, "") for column in columns] for row in result.worst]
            tables.append(Table(f"{start}/worst/{name}", columns, rows))
    return tables
