"""Data of opened tasks in mteb's form, for the tasks' own ``as_mteb``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from embedkit.evaluation.core.inputs import EncodedImage, Item


@dataclass(frozen=True)
class MtebPart:
    """What mteb needs for one local task.

    Attributes
    ----------
    base : type
        mteb's abstract task, e.g. ``AbsTaskSTS``.
    kind, category, metric : str
        mteb's type ("STS"), category ("t2t") and main score.
    modalities : tuple of str
        "text" and "image", in mteb's order.
    data : object
        What mteb keeps in ``task.dataset``.
    attributes : mapping
        Further attributes of the task's class.

    Examples
    --------
    >>> from mteb.abstasks.sts import AbsTaskSTS
    >>> data = one_split(sentence1=["a cat"], sentence2=["a pet"], score=[4.0])
    >>> MtebPart(AbsTaskSTS, "STS", "t2t", "cosine_spearman", ("text",), data).data["default"]["test"].num_rows
    1
    """

    base: type
    kind: str
    category: str
    metric: str
    modalities: tuple[str, ...]
    data: Any
    attributes: Mapping[str, Any] = field(default_factory=dict)


def column_of(items: Sequence[Item]) -> str:
    """The name of mteb's column for the items: "image" or "text".

    Examples
    --------
    >>> column_of(["a cat"])
    'text'
    """
    return "image" if isinstance(items[0], EncodedImage) else "text"


def labelled(items: Sequence[Item], other: str, values: Sequence[Any]) -> Any:
    """A data set of inputs and one more column, ``id`` (text) or ``label`` (integers).

    Examples
    --------
    >>> labelled(["a cat", "a car"], "label", [0, 1])[1]
    {'text': 'a car', 'label': 1}
    """
    import datasets

    name, cells, feature = column_of(items), list[Any](items), datasets.Value("string")
    if name == "image":
        cells = [{"bytes": item.content, "path": None} for item in items if isinstance(item, EncodedImage)]
        feature = datasets.Image()
    second = datasets.Value("string" if other == "id" else "int64")
    return datasets.Dataset.from_dict(
        {name: cells, other: list(values)}, datasets.Features({name: feature, other: second})
    )


def one_split(**columns: Sequence[Any]) -> Any:
    """mteb's form of a task with one split, "test", of the given columns.

    Examples
    --------
    >>> one_split(text=["a cat"], label=[0])["default"]["test"][0]
    {'text': 'a cat', 'label': 0}
    """
    import datasets

    return {"default": datasets.DatasetDict(test=datasets.Dataset.from_dict({k: list(v) for k, v in columns.items()}))}


def search(documents: Any, queries: Any, relevant: dict[str, dict[str, int]]) -> Any:
    """mteb's form of a retrieval task: data sets of documents and queries, judgements by query and document id.

    Examples
    --------
    >>> documents, queries = labelled(["By card."], "id", ["d0"]), labelled(["How do I pay?"], "id", ["q0"])
    >>> search(documents, queries, {"q0": {"d0": 1}})["default"]["test"]["corpus"][0]
    {'text': 'By card.', 'id': 'd0'}
    """
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

    split = RetrievalSplitData(corpus=documents, queries=queries, relevant_docs=relevant, top_ranked=None)
    return {"default": {"test": split}}
