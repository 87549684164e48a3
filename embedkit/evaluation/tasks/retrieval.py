"""Retrieval: find the judged documents of a corpus for each query."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from pydantic import Field

from embedkit.errors import DataError, NonFiniteError, need
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.stats import Array, Samples, unit_rows
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Cutoffs, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.core.worst import worst_queries
from embedkit.evaluation.datasets.beir import Collection, collection_of_pairs, is_collection, open_collection
from embedkit.evaluation.datasets.columns import joined_lists
from embedkit.evaluation.datasets.look import Look
from embedkit.evaluation.datasets.tables import Table, content_hash, own_rows
from embedkit.evaluation.measures.ranking import ranking_metrics, tie_rate
from embedkit.evaluation.mteb.parts import MtebPart, search
from embedkit.retrieval.approximate import FaissIndex
from embedkit.retrieval.exact import exact_top_k, trec_preference

GOOD_RECALL = 95.0
"""Per cent of the true nearest documents; of an index that finds fewer a note beside the score reports it."""


class RetrievalSettings(TaskSettings):
    """How documents are found and scored.

    ``similarity``: cosine, or the inner product of the vectors as they are. ``cutoffs``: depths of the measures.
    ``main``: the measure that is the score. ``query_prompt``, ``document_prompt``: names or texts of prompts, the empty
    text being one too; without them the model's own for queries and documents, as sentence-transformers uses them.
    ``ignore_identical_ids``: a document with the query's id is no answer (ArguAna, Quora in MTEB). ``block``:
    documents encoded and scored at a time. ``index``: "exact", or the description of a FAISS index, whose recall
    against exact search is then measured; the score is the index's. ``device``: of the exact search; the model's GPU,
    or else the CPU.

    Examples
    --------
    >>> RetrievalSettings(query_prompt="query: ", main="recall@5").cutoffs
    (1, 3, 5, 10, 100)
    """

    similarity: Literal["cosine", "dot"] = "cosine"
    cutoffs: Cutoffs = (1, 3, 5, 10, 100)
    main: str = "ndcg@10"
    query_prompt: str | None = None
    document_prompt: str | None = None
    ignore_identical_ids: bool = False
    block: int = Field(4096, gt=0)
    index: str = "exact"
    device: str | None = None


@TASKS.add("retrieval")
class RetrievalTask(Task):
    """nDCG@10 x 100 (or ``main``) over the judged queries, with trec_eval's definitions and tie rule.

    Data: a folder in BEIR's form, or own rows of ``query`` and ``positive``. For the exact search the corpus is
    encoded and searched block by block, so that memory holds one block of its vectors, whatever its size; several
    processes share it out. A FAISS index needs all.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> lengths = SimpleNamespace(encode=lambda texts: np.array([[len(text), 1.0] for text in texts]))
    >>> cells = {"query": ["how do I pay?", "where?"], "positive": ["only by card", "here"]}
    >>> task = RetrievalTask(TaskConfig(name="faq", kind="retrieval"), Opening(Table(cells, [1, 2], "faq"), "test"))
    >>> task.score(Embedder(lengths)).metrics["ndcg@10"]
    100.0
    """

    settings_type = RetrievalSettings
    hub_type = "information-retrieval"

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        if self.settings.index != "exact":
            need("faiss-cpu", "search", "an approximate index", module="faiss")
        self.collection = self._open(config, opening)
        self.notes += [f"{self.name}: {note}" for note in self.collection.notes]
        self.expect_rows(len(self.collection.queries), "queries")
        measures = ranking_metrics(np.zeros((1, 1)), [[0]], self.settings.cutoffs)
        if self.settings.main not in measures:
            raise DataError(f"no measure {self.settings.main!r}", where=f"task {self.name}", remedy=", ".join(measures))

    def _open(self, config: TaskConfig, opening: Opening) -> Collection:
        """The collection: of own pairs, of an own folder, or the folder of the task's name."""
        if isinstance(opening.data, Table):
            names = {"anchor": "query", "positive": "positive", "negatives": "negatives"}
            table = joined_lists(self.own_table(opening.data, names, ["negatives"]), "negative", "negatives")
            return collection_of_pairs(own_rows(table, opening.split))
        if opening.data is None:
            raise DataError(f"task {self.name!r} needs local files", remedy="name its folder: --data, evaluation.data")
        name, split = config.file or config.name, config.in_file(opening.split)
        folders = [opening.data] if config.own else [opening.data / (opening.folder or "") / name, opening.data / name]
        folder = next((f for f in folders if is_collection(f)), folders[-1])
        if folder is not opening.data and not is_collection(folder) and is_collection(opening.data):
            folder = opening.data
            self.notes.append(f"{self.name}: the folder {folder} itself is taken for it, as the list of tasks says")
        return open_collection(folder, split if isinstance(split, str) else split[0])

    @classmethod
    def reading(cls, look: Look) -> str | None:
        """A collection in BEIR's form, or texts and what answers them, without scores and labels."""
        if look.collection is not None:
            return "a collection of documents, queries and judgements"
        roles = look.roles
        if not {"anchor", "positive"} <= set(roles) or {"score", "label", "image"} & set(roles):
            return None
        if roles["anchor"].lower().startswith(("sent", "text")):
            return None  # two sentences may be a paraphrase, a translation, a premise: only their owner knows
        return f"questions and answers (columns {roles['anchor']!r}, {roles['positive']!r})"

    @property
    def data(self) -> dict[str, Any]:
        """Source, counts and the hash of documents, queries and judgements."""
        c = self.collection
        judged = [[query, document, value] for query, row in c.qrels.items() for document, value in sorted(row.items())]
        digest = content_hash(c.document_ids, c.documents, c.query_ids, c.queries, judged)
        counts = {"documents": len(c.documents), "queries": len(c.queries), "judgements": len(judged)}
        return {"source": c.source, "rows": len(c.queries), "sha256": digest, **counts}

    def requests(self) -> list[Request]:
        """The queries; the corpus is encoded block by block when it is searched."""
        return [Request(self.collection.queries, self.settings.query_prompt, "query")]

    def as_mteb(self) -> list[MtebPart]:
        """A retrieval task of mteb."""
        import datasets
        from mteb.abstasks.retrieval import AbsTaskRetrieval

        c = self.collection
        corpus = {"id": c.document_ids, "title": [""] * len(c.documents), "text": c.documents}
        queries = datasets.Dataset.from_dict({"id": c.query_ids, "text": c.queries})
        relevant = {query: dict(row) for query, row in c.qrels.items()}
        data = search(datasets.Dataset.from_dict(corpus), queries, relevant)
        return [MtebPart(AbsTaskRetrieval, "Retrieval", "t2t", "ndcg_at_10", ("text",), data)]

    def score(self, embed: Embedder) -> TaskResult:
        """Measures at every cutoff, averaged over queries."""
        c, s = self.collection, self.settings
        depth = min(max(s.cutoffs) + int(s.ignore_identical_ids), len(c.documents))
        queries = self._ready(embed(c.queries, s.query_prompt, "query"))
        details: dict[str, Any] = {"documents": len(c.documents), "queries": len(c.queries)}
        details["prompts"], remarks = embed.describe_prompts(query=s.query_prompt, document=s.document_prompt)
        notes = [*self.notes, *(f"{self.name}: {words}" for words in remarks)]
        preference = trec_preference(c.document_ids)
        if s.index == "exact":
            scores, places = exact_top_k(
                queries, self._blocks(embed, own=True), depth, len(c.documents), preference,
                device=s.device or _search_device(embed.model), shared=embed.distributed,
            )  # fmt: skip
        else:
            vectors = np.concatenate([block for _, block in self._blocks(embed)])
            scores, places = FaissIndex(vectors, s.index, preference).search(queries, depth)
            exact = exact_top_k(queries, [(0, vectors)], depth, len(c.documents), preference)[1]
            shared = [len(np.intersect1d(a, b)) / depth for a, b in zip(places, exact, strict=True)]
            details["index_recall"] = recall = 100 * float(np.mean(shared))
            if recall < GOOD_RECALL:
                words = f"the index {s.index} finds {recall:.1f} % of the true nearest documents"
                notes.append(f"{self.name}: {words}; the score is the index's, index=exact gives the model's")
        if len(scores) > 1 and np.ptp(scores) == 0:
            raise NonFiniteError("every document has the same score for every query", where=f"task {self.name}")
        details["tie_rate"] = tie_rate(scores)
        gains = self._gains(places)
        judged = [list(c.qrels[query].values()) for query in c.query_ids]
        measures = ranking_metrics(gains, judged, s.cutoffs)
        metrics = {name: 100 * float(values.mean()) for name, values in measures.items()}
        metrics |= {name: details[name] for name in ("index_recall",) if name in details}
        samples = Samples("mean", {"value": measures[s.main]})
        worst = self._worst(measures[s.main], places)
        return TaskResult(
            self.name, s.main, metrics[s.main], metrics, samples, details=details, notes=notes, worst=worst
        )

    def _worst(self, values: Array, places: Array) -> list[dict[str, str]]:
        """The worst queries with the document that was found first, and the one that is judged best."""
        c = self.collection
        number = {name: place for place, name in enumerate(c.document_ids)}
        best = [max(c.qrels[query], key=c.qrels[query].__getitem__) for query in c.query_ids]
        answers = [c.documents[number[name]] if name in number else name for name in best]
        return worst_queries(c.queries, values, [c.documents[row[0]] if row[0] >= 0 else "" for row in places], answers)

    def _ready(self, vectors: Array) -> Array:
        return unit_rows(vectors) if self.settings.similarity == "cosine" else vectors

    def _blocks(self, embed: Embedder, own: bool = False) -> Iterator[tuple[int, Array]]:
        documents, s = self.collection.documents, self.settings
        for start, block in embed.blocks(documents, s.block, s.document_prompt, side="document", own=own):
            yield start, self._ready(block)

    def _gains(self, places: Array) -> Array:
        """Judgements of the ranked documents, (Q, K); a place of -1 is no document."""
        c = self.collection
        gains = np.zeros(places.shape)
        for row, query in enumerate(c.query_ids):
            names = [c.document_ids[i] for i in places[row] if i >= 0]
            if self.settings.ignore_identical_ids:
                names = [name for name in names if name != query]
            names = names[: max(self.settings.cutoffs)]
            gains[row, : len(names)] = [c.qrels[query].get(name, 0) for name in names]
        return gains


def _search_device(model: Any) -> str:
    place = str(getattr(model, "device", "cpu"))
    return place if place.startswith("cuda") else "cpu"
