"""Tasks of embedkit's suites, opened from local folders, as tasks of mteb: its definitions on one's own data, offline.

``mteb:retrieval/scifact`` with a data folder is the task "scifact" of the suite "retrieval" scored by mteb;
``mteb:retrieval`` is all of the suite. The revision of each data set is the hash of its content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from embedkit.errors import UserError
from embedkit.evaluation.core.inputs import EncodedImage, Item
from embedkit.evaluation.core.open_suite import open_own_suite
from embedkit.evaluation.core.suites import mteb_task_names
from embedkit.evaluation.core.task import Task

# kind of task -> mteb's type, category, modalities and main score
_KINDS = {
    "sts": ("STS", "t2t", ["text"], "cosine_spearman"),
    "pair-classification": ("PairClassification", "t2t", ["text"], "max_ap"),
    "retrieval": ("Retrieval", "t2t", ["text"], "ndcg_at_10"),
    "probe": ("Classification", "t2c", ["text"], "accuracy"),
    "zero-shot": ("ZeroShotClassification", "i2t", ["image", "text"], "accuracy"),
    "image-text": ("Any2AnyRetrieval", "i2t", ["text", "image"], "hit_rate_at_1"),
}


def _column(items: Sequence[Item]) -> tuple[str, list[Any], Any]:
    """Name, cells and feature of a column of texts or of images."""
    import datasets

    if isinstance(items[0], EncodedImage):
        cells = [{"bytes": item.content, "path": None} for item in items if isinstance(item, EncodedImage)]
        return "image", cells, datasets.Image()
    return "text", list(items), datasets.Value("string")


def _table(items: Sequence[Item], other: str, values: Sequence[Any]) -> Any:
    """A data set of inputs and one more column, ``id`` (text) or ``label`` (integers)."""
    import datasets

    name, cells, feature = _column(items)
    second = datasets.Value("string" if other == "id" else "int64")
    return datasets.Dataset.from_dict(
        {name: cells, other: list(values)}, datasets.Features({name: feature, other: second})
    )


def _retrieval(documents: Any, queries: Any, relevant: dict[str, dict[str, int]]) -> Any:
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

    split = RetrievalSplitData(corpus=documents, queries=queries, relevant_docs=relevant, top_ranked=None)
    return {"default": {"test": split}}


def _sts(task: Any) -> list[tuple[Any, dict[str, Any]]]:
    import datasets
    from mteb.abstasks.sts import AbsTaskSTS

    rows = {"sentence1": task.first, "sentence2": task.second, "score": task.gold.tolist()}
    limits = {"min_score": float(task.gold.min()), "max_score": float(task.gold.max())}
    dataset = {"default": datasets.DatasetDict(test=datasets.Dataset.from_dict(rows))}
    return [(AbsTaskSTS, {"data": dataset, **limits})]


def _pairs(task: Any) -> list[tuple[Any, dict[str, Any]]]:
    import datasets
    from mteb.abstasks.pair_classification import AbsTaskPairClassification

    rows = {"sentence1": task.first, "sentence2": task.second, "labels": task.gold.tolist()}
    dataset = {"default": datasets.DatasetDict(test=datasets.Dataset.from_dict(rows))}
    return [(AbsTaskPairClassification, {"data": dataset})]


def _documents(task: Any) -> list[tuple[Any, dict[str, Any]]]:
    import datasets
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    c = task.collection
    corpus = {"id": c.document_ids, "title": [""] * len(c.documents), "text": c.documents}
    queries = datasets.Dataset.from_dict({"id": c.query_ids, "text": c.queries})
    relevant = {query: dict(row) for query, row in c.qrels.items()}
    return [(AbsTaskRetrieval, {"data": _retrieval(datasets.Dataset.from_dict(corpus), queries, relevant)})]


def _classes(task: Any) -> list[tuple[Any, dict[str, Any]]]:
    import datasets
    from mteb.abstasks.classification import AbsTaskClassification

    if len(task.parts) < 2 or len(task.parts[0][0]) > 1:
        raise UserError(
            "has one split, or pairs of texts, which mteb's classification has not",
            where=f"task {task.name}", remedy="use embedkit's own suite",
        )  # fmt: skip
    parts = {
        name: _table(inputs[0], "label", labels.tolist())
        for name, (inputs, labels) in (("train", task.parts[0]), ("test", task.parts[-1]))
    }
    column = _column(task.parts[0][0][0][:1])[0]
    more = {"input_column_name": column, "modalities": [column], "category": f"{column[0]}2c"}
    return [(AbsTaskClassification, {"data": datasets.DatasetDict(parts), **more})]


def _zero_shot(task: Any) -> list[tuple[Any, dict[str, Any]]]:
    import datasets
    from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

    said = list(task.prompts[:: len(task.settings.templates)])  # mteb has one prompt a class
    dataset = {"default": datasets.DatasetDict(test=_table(task.items, "label", task.labels.tolist()))}
    column = _column(task.items[:1])[0]
    more = {
        "input_column_name": column,
        "modalities": list(dict.fromkeys([column, "text"])),
        "category": f"{column[0]}2t",
    }
    return [(AbsTaskZeroShotClassification, {"data": dataset, "get_candidate_labels": lambda self: said, **more})]


def _both_ways(task: Any) -> list[tuple[Any, dict[str, Any]]]:
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    images, texts = [f"i{n}" for n in range(len(task.images))], [f"t{n}" for n in range(len(task.texts))]
    owners = task.owner.tolist()
    there: dict[str, dict[str, int]] = {name: {} for name in images}
    for text, owner in zip(texts, owners, strict=True):
        there[images[owner]][text] = 1
    back = {text: {images[owner]: 1} for text, owner in zip(texts, owners, strict=True)}
    pictures, captions = _table(task.images, "id", images), _table(task.texts, "id", texts)
    more = {"k_values": (1, 5, 10)}
    return [
        (AbsTaskRetrieval, {"data": _retrieval(captions, pictures, there), **more}),
        (AbsTaskRetrieval, {"data": _retrieval(pictures, captions, back), "category": "t2i", **more}),
    ]


_MAKERS: dict[str, Callable[[Any], list[tuple[Any, dict[str, Any]]]]] = {
    "sts": _sts, "pair-classification": _pairs, "retrieval": _documents, "probe": _classes, "zero-shot": _zero_shot,
    "image-text": _both_ways,
}  # fmt: skip


def mteb_tasks(suite: str, task: Task) -> list[Any]:
    """An opened task as mteb tasks (two for image-text, one each way), named as `mteb_task_names` says.

    Raises
    ------
    UserError
        mteb has no such kind of task.
    """
    kind = task.config.kind
    if kind not in _MAKERS:
        raise UserError(
            f"mteb has no task like {kind!r}", where=f"task {task.name}", remedy=f"kinds: {', '.join(_MAKERS)}"
        )
    from mteb.abstasks.task_metadata import TaskMetadata

    head, category, modalities, main = _KINDS[kind]
    data, made = task.data, []
    for name, (base, more) in zip(mteb_task_names(suite, task.name, kind), _MAKERS[kind](task), strict=True):
        metadata = TaskMetadata(
            name=name, description=f"Local data: {data['source']}", type=head, eval_splits=["test"],
            eval_langs=["eng-Latn"], main_score=main, modalities=more.pop("modalities", modalities),
            category=more.pop("category", category),
            dataset={"path": str(data["source"]), "revision": str(data["sha256"])[:40]},
        )  # fmt: skip
        dataset = more.pop("data")
        local = type("LocalTask", (base,), {"metadata": metadata, "load_data": lambda self, **_: None, **more})()
        local.dataset, local.data_loaded = dataset, True
        made.append(local)
    return made


def local_tasks(names: Sequence[str], data: str | Path, split: str = "test") -> list[Any]:
    """mteb tasks of ``SUITE`` or ``SUITE/TASK`` with the data of a local folder; needs no network.

    Raises
    ------
    UserError, DataError
        A suite or a task is unknown or of a kind that mteb lacks, or its data cannot be used.
    """
    found = []
    for name in names:
        suite, _, task = name.partition("/")
        opened = open_own_suite(suite, data, [task] if task else None, split)
        for one in opened.tasks:
            found += mteb_tasks(opened.config.name, one)
    return found
