"""Any model as an encoder of mteb 2 (Enevoldsen et al. 2025), and mteb's tasks as a suite.

mteb finds earlier results by model name and revision alone. The revision given here is a hash of everything that
decides the vectors, and no result cache is used, so that a checkpoint never gets the score of another one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import DataError, DiskError, UserError
from embedkit.evaluation.core import provenance
from embedkit.evaluation.core.cache import EmbeddingCache
from embedkit.evaluation.core.embedder import Embedder, Encoder, Progress, prompt_of_side
from embedkit.evaluation.core.inputs import EncodedImage, Item, image_item
from embedkit.evaluation.core.stats import Array, cosine_pairs, unit_rows
from embedkit.evaluation.core.task import TaskResult
from embedkit.evaluation.mteb.names import import_mteb, mteb_names, official_tasks
from embedkit.evaluation.report.report import Report


class MtebEncoder:
    """A model with the four parts of mteb's ``EncoderProtocol``.

    Parameters
    ----------
    model : Encoder
        Anything with ``encode(list) -> (N, D)``; images are given to it as RGB.
    name : str
        How results call it; without a slash it is filed under ``embedkit/``.
    prompt : str, optional
        Name of a prompt for everything. Without it the model's own ``prompts`` are searched for the task and the side:
        ``TASK-query``, ``TASK``, ``TYPE-query``, ``TYPE``, ``query`` (and "passage" for "document").
    cache : EmbeddingCache, optional
        Vectors shared with other suites; only for models with a hash. Memory keeps no documents of a corpus.

    Examples
    --------
    >>> class Lengths:
    ...     prompts = {"query": "query: ", "passage": "passage: "}
    ...     def encode(self, texts, **options):
    ...         return np.array([[len(text), 1.0] for text in texts])
    >>> from types import SimpleNamespace
    >>> encoder = MtebEncoder(Lengths(), "lengths")
    >>> encoder.prompt_for(SimpleNamespace(name="SciFact", type="Retrieval"), "document")
    'passage'
    >>> encoder.mteb_model_meta.name
    'embedkit/lengths'
    """

    def __init__(
        self,
        model: Encoder,
        name: str = "model",
        *,
        prompt: str | None = None,
        dim: int | None = None,
        cache: EmbeddingCache | None = None,
        progress: Progress | None = None,
    ) -> None:
        mteb = import_mteb()
        self.description = provenance.describe_model(model, name)
        key = provenance.model_key(self.description)
        if key is None:
            # a model that cannot be told apart from its other versions gets a revision that is used once
            key = f"{self.description['class']} {time.time_ns()}"
        text = f"{key}\nprompt={prompt}\ndim={dim}"
        prompts = getattr(model, "prompts", None)
        self.prompts = set(prompts) if isinstance(prompts, dict) else set()
        self.prompt = prompt
        self.embed = Embedder(
            model, prompt=prompt, dim=dim, cache=cache, progress=progress,
            model_key=provenance.model_key(self.description),
        )  # fmt: skip
        self.mteb_model_meta = mteb.models.ModelMeta.create_empty(
            overwrites={
                "name": name if "/" in name else f"embedkit/{name}",
                "revision": hashlib.sha256(text.encode()).hexdigest()[:40],
                "modalities": ["text", "image"],
                "max_tokens": self.description.get("max_length"),
                "embed_dim": self.description.get("dim"),
            }
        )

    def prompt_for(self, task: Any, side: str | None) -> str | None:
        """The name of the model's prompt for a task's metadata and side ("query", "document" or None)."""
        if self.prompt is not None:
            return self.prompt
        heads = [name for head in (task.name, task.type) for name in (*([f"{head}-{side}"] if side else []), head)]
        return next((name for name in heads if name in self.prompts), None) or prompt_of_side(self.prompts, side)

    def encode(
        self, inputs: Iterable[Any], *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None,
        **options: Any,
    ) -> Array:  # fmt: skip
        """Vectors of mteb's batches, float32 (N, D); texts and images of one input are added, as in mteb's CLIP."""
        texts: list[Item] = []
        images: list[Item] = []
        for batch in inputs:
            texts += batch.get("text", [])
            images += [image_item(image) for image in batch.get("image", [])]
        if not texts and not images:
            raise DataError("a batch has neither text nor image", where=f"mteb task {task_metadata.name}")
        side = getattr(prompt_type, "value", prompt_type)
        prompt = self.prompt_for(task_metadata, side)
        # documents are a part of a corpus, which may be larger than memory
        parts = [self._vectors(items, prompt, keep=side != "document") for items in (texts, images) if items]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _vectors(self, items: list[Item], prompt: str | None, keep: bool) -> Array:
        prompt = None if isinstance(items[0], EncodedImage) else prompt
        ((_, vectors),) = self.embed.blocks(items, len(items), prompt, keep=keep)
        return vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Array:
        """Cosines (N, M) of vectors (N, D) and (M, D)."""
        return unit_rows(_matrix(embeddings1)) @ unit_rows(_matrix(embeddings2)).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Array:
        """Cosines (N,) of the rows of two (N, D)."""
        return cosine_pairs(_matrix(embeddings1), _matrix(embeddings2)).astype(np.float32)


def _matrix(vectors: Any) -> Array:
    array = np.asarray(vectors.detach().cpu() if hasattr(vectors, "detach") else vectors, dtype=np.float32)
    return array[None] if array.ndim == 1 else array


@dataclass
class MtebSuite:
    """mteb tasks with the same `run` as a suite of embedkit.

    Attributes
    ----------
    tasks : list
        mteb task objects; those of mteb's own list are downloaded when they run.
    results : path, optional
        Folder that gets mteb's own result files too, in the form that its leaderboard takes:
        ``results/MODEL/REVISION/TASK.json`` and ``model_meta.json``.

    Examples
    --------
    >>> from embedkit.evaluation.mteb.local import local_tasks
    >>> rows = [{"sentence1": "a", "sentence2": "b", "score": 4}, {"sentence1": "a", "sentence2": "boat", "score": 0}]
    >>> suite = MtebSuite(local_tasks(["own-sts"], rows))  # suite.run(model) is its report
    >>> [task.metadata.name for task in suite.tasks]
    ['own-sts-data']
    """

    tasks: list[Any]
    split: str = "test"
    prompt: str | None = None
    truncate_dim: int | None = None
    seed: int = 0
    results: Path | None = None

    def run(
        self,
        model: Encoder,
        progress: Progress | None = None,
        *,
        cache: EmbeddingCache | None = None,
        distributed: bool = False,
        name: str | None = None,
    ) -> Report:
        """Main scores x 100 by task, and their mean; see `embedkit.evaluation.api.OpenSuite.run`."""
        if distributed:
            raise UserError("mteb tasks run in one process", remedy="start one process, without a launcher")
        mteb, began = import_mteb(), time.perf_counter()
        encoder = MtebEncoder(
            model, name or "model", prompt=self.prompt, dim=self.truncate_dim, cache=cache, progress=progress
        )
        results = {}
        for task in self.tasks:
            ran = mteb.evaluate(encoder, task, cache=None, co2_tracker=False, show_progress_bar=False)
            results[task.metadata.name] = self._result(task, ran.task_results[0])
            if self.results is not None:
                try:
                    mteb.ResultCache(self.results).save_to_cache(ran.task_results[0], encoder.mteb_model_meta)
                except OSError as error:
                    raise DiskError(f"cannot write mteb's results: {error}", where=str(self.results)) from error
        scores = {task: result.score for task, result in results.items()}
        scores["avg"] = float(np.mean(list(scores.values())))
        embed = encoder.embed
        timing = {
            "seconds": time.perf_counter() - began, "encode_seconds": embed.seconds,
            "inputs_encoded": embed.encoded, "inputs_from_cache": embed.reused,
        }  # fmt: skip
        return Report("mteb", results, scores, "avg", encoder.description, self._settings(encoder), timing)

    def _result(self, task: Any, ran: Any) -> TaskResult:
        splits = list(ran.scores)
        score_splits = [self.split] if self.split in splits else splits
        rows = [row for split in score_splits for row in ran.scores[split]]
        numbers = {key for row in rows for key, value in row.items() if isinstance(value, int | float)}
        metrics = {key: float(np.mean([row[key] for row in rows if key in row])) for key in sorted(numbers)}
        score = 100 * metrics["main_score"]
        if not np.isfinite(score):
            raise DataError("mteb gave no score", where=f"mteb task {task.metadata.name}")
        details = {"type": task.metadata.type, "splits": score_splits, "subsets": len(rows)}
        return TaskResult(task.metadata.name, str(task.metadata.main_score), score, metrics, details=details)

    def _settings(self, encoder: MtebEncoder) -> dict[str, Any]:
        described = encoder.description
        return {
            "split": self.split,
            "tasks": {task.metadata.name: {"type": task.metadata.type} for task in self.tasks},
            "average": "plain",
            "prompt": self.prompt,
            "dim": self.truncate_dim,
            "pooler": described.get("pooling"),
            "max_length": described.get("max_length"),
            "precision": described.get("dtype"),
            "seed": self.seed,
            "data": {task.metadata.name: {"source": task.metadata.dataset["path"],
                                          "revision": task.metadata.dataset["revision"]} for task in self.tasks},
            "mteb_revision": encoder.mteb_model_meta.revision,
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "date": provenance.now(),
        }  # fmt: skip


def open_mteb(
    tasks: str | Sequence[Any],
    split: str = "test",
    *,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    seed: int = 0,
) -> MtebSuite:
    """mteb tasks by name (``"mteb:STS12,SciFact"`` or a list), those of benchmarks, or task objects of one's own.

    Raises
    ------
    UserError
        mteb knows no task and no benchmark of that name.

    Examples
    --------
    >>> open_mteb("mteb:STS12,SICK-R").tasks
    [STS12STS(name='STS12', languages=['eng']), SickrSTS(name='SICK-R', languages=['eng'])]
    """
    names: Sequence[Any] = mteb_names(tasks) if isinstance(tasks, str) else list(tasks)
    by_name: dict[str, Any] = {}
    for name in names:
        for task in official_tasks(name) if isinstance(name, str) else [name]:
            by_name.setdefault(task.metadata.name, task)
    return MtebSuite(list(by_name.values()), split, prompt, truncate_dim, seed)
