"""Tasks of embedkit's suites, opened from local folders, as tasks of mteb: its definitions on your own data, offline.

``mteb:retrieval/scifact`` with a data folder is the task "scifact" of the suite "retrieval" scored by mteb;
``mteb:retrieval`` is all of the suite. The revision of each data set is the hash of its content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedkit.evaluation.core.open_suite import Data, open_own_suite
from embedkit.evaluation.core.task import Task
from embedkit.evaluation.mteb.names import mteb_task_name


def mteb_tasks(suite: str, task: Task) -> list[Any]:
    """An opened task as mteb tasks, one for each of its ways (image-text has two), named as `mteb_task_name` says.

    Raises
    ------
    UserError
        mteb has no such kind of task.

    Examples
    --------
    >>> rows = [{"sentence1": "a", "sentence2": "b", "score": 4}, {"sentence1": "a", "sentence2": "boat", "score": 0}]
    >>> (task,) = mteb_tasks("own-sts", open_own_suite("own-sts", rows).tasks[0])
    >>> task.metadata.name, task.metadata.type
    ('own-sts-data', 'STS')
    """
    parts, data = task.as_mteb(), task.data
    from mteb.abstasks.task_metadata import TaskMetadata

    tasks = []
    for way, part in zip(task.mteb_ways, parts, strict=True):
        metadata = TaskMetadata(
            name=mteb_task_name(suite, task.name, way), description=f"Local data: {data['source']}", type=part.kind,
            eval_splits=["test"], eval_langs=["eng-Latn"], main_score=part.metric, modalities=list(part.modalities),
            category=part.category, dataset={"path": str(data["source"]), "revision": str(data["sha256"])[:40]},
        )  # fmt: skip
        attributes = {"metadata": metadata, "load_data": lambda self, **_: None, **part.attributes}
        local = type("LocalTask", (part.base,), attributes)()
        local.dataset, local.data_loaded = part.data, True
        tasks.append(local)
    return tasks


def local_tasks(names: Sequence[str], data: Data, split: str = "test") -> list[Any]:
    """mteb tasks of ``SUITE`` or ``SUITE/TASK`` with the data of a local folder; needs no network.

    Raises
    ------
    UserError, DataError
        A suite or a task is unknown or of a kind that mteb lacks, or its data cannot be used.

    Examples
    --------
    >>> rows = [{"query": "how do I pay?", "positive": "by card"}, {"query": "where?", "positive": "in town"}]
    >>> [task.metadata.main_score for task in local_tasks(["own-retrieval"], rows)]
    ['ndcg_at_10']
    """
    tasks = []
    for name in names:
        suite, _, task = name.partition("/")
        evaluation = open_own_suite(suite, data, [task] if task else None, split)
        for one in evaluation.tasks:
            tasks += mteb_tasks(evaluation.config.name, one)
    return tasks
