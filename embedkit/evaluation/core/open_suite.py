"""A suite whose data are open: run it on any number of models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import DataError, UserError
from embedkit.evaluation.core import provenance
from embedkit.evaluation.core.cache import EmbeddingCache
from embedkit.evaluation.core.embedder import Embedder, Encoder, Progress
from embedkit.evaluation.core.stats import Array, bootstrap, generator, interval
from embedkit.evaluation.core.suites import SuiteConfig, TaskConfig, load_suite
from embedkit.evaluation.core.task import TASKS, Opening, Task, TaskResult, check_settings
from embedkit.evaluation.datasets.look import Data, look
from embedkit.evaluation.report.report import Report
from embedkit.evaluation.suites.own import resolve


@dataclass
class OpenSuite:
    """A suite whose data are open and checked; `run` it on a model as often as wanted.

    Made by `open_suite` of its arguments: `tasks` are open, `main_name` is the key of the main score.

    Examples
    --------
    >>> from embedkit.evaluation import open_suite
    >>> rows = [{"query": "how do I pay?", "positive": "by card"}, {"query": "where?", "positive": "in town"}]
    >>> open_suite("own-retrieval", rows).main_name
    'data'
    """

    config: SuiteConfig
    tasks: list[Task]
    split: str
    main_name: str
    seed: int
    prompt: str | None
    truncate_dim: int | None
    resamples: int

    def run(
        self,
        model: Encoder,
        progress: Progress | None = None,
        *,
        cache: EmbeddingCache | None = None,
        distributed: bool = False,
        name: str | None = None,
    ) -> Report:
        """Scores of `model`.

        Parameters
        ----------
        model : Encoder
            Anything with ``encode(list[str]) -> (N, D)``; ``describe()`` is used where it exists.
        progress : callable, optional
            Called with (inputs encoded, inputs in this round) after every block.
        cache : EmbeddingCache, optional
            Vectors shared with other runs; only used for models that can be told apart by a hash.
        distributed : bool
            Encode with all processes of torch.distributed, each of which must call this; all get the same report.
        name : str, optional
            How the report calls the model.

        Raises
        ------
        NonFiniteError, UserError
            The vectors are not finite, all the same, or of the wrong shape.
        """
        began = time.perf_counter()
        described = provenance.describe_model(model, name)
        embed = Embedder(
            model, prompt=self.prompt, dim=self.truncate_dim, cache=cache, model_key=provenance.model_key(described),
            distributed=distributed, progress=progress,
        )  # fmt: skip
        embed.prepare([request for task in self.tasks for request in task.requests()])
        results: dict[str, TaskResult] = {}
        draws: dict[str, Array] = {}
        for task in self.tasks:
            result = task.score(embed)
            if self.resamples and result.samples is not None:
                rng = generator(self.seed, task.name)
                draws[task.name] = result.unit * bootstrap(result.samples, self.resamples, rng)
                result.interval = interval(draws[task.name])
            results[task.name] = result
        scores = {name: result.score for name, result in results.items()}
        bounds = None
        if self.config.average != "none":
            scores["avg"] = self._average(scores.values())
            if len(draws) == len(results):
                bounds = interval(np.mean(list(draws.values()), axis=0))
        timing = {
            "seconds": time.perf_counter() - began, "encode_seconds": embed.seconds,
            "inputs_encoded": embed.encoded, "inputs_from_cache": embed.reused,
        }  # fmt: skip
        return Report(
            self.config.name, results, scores, self.main_name, described, self._settings(described), timing, bounds
        )

    def _average(self, scores: Any) -> float:
        values = [round(score, 2) if self.config.average == "rounded" else score for score in scores]
        return float(np.mean(values))

    def _settings(self, described: Mapping[str, Any]) -> dict[str, Any]:
        texts = described.get("text", described)  # a dual encoder describes its towers apart
        return {
            "split": self.split,
            "tasks": {task.name: {"kind": task.config.kind, **task.stored_settings()} for task in self.tasks},
            "average": self.config.average,
            "prompt": self.prompt,
            "dim": self.truncate_dim,
            "pooler": texts.get("pooling", texts.get("pooler")),
            "max_length": texts.get("max_length"),
            "precision": described.get("dtype"),
            "seed": self.seed,
            "bootstrap": {"resamples": self.resamples, "level": 0.95},
            "data": {task.name: task.data for task in self.tasks},
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "date": provenance.now(),
        }


def open_own_suite(
    suite: str | Path | SuiteConfig,
    data: Data | None = None,
    tasks: Sequence[str] | None = None,
    split: str = "test",
    *,
    settings: Mapping[str, Any] | None = None,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> OpenSuite:
    """An open suite of embedkit's own tasks; arguments and errors are those of `embedkit.evaluation.open_suite`.

    Examples
    --------
    >>> rows = [{"query": "how do I pay?", "positive": "by card"}, {"query": "where?", "positive": "in town"}]
    >>> suite = open_own_suite("own-retrieval", rows)
    >>> suite.tasks[0].data["documents"]
    2
    """
    config, notes = resolve(load_suite(suite), data, tasks)
    configs = config.choose(tasks, split)
    users = dict(settings or {})
    check_settings([task.kind for task in configs], users)
    if resamples < 0:
        raise UserError(f"resamples is {resamples}", remedy="use 0 or more")
    open_tasks: list[Task] = []
    for task in configs:
        opening = Opening(_data_of(task, data), split, config.folder, seed, config.settings, users)
        open_tasks.append(TASKS[task.kind](task, opening))
    open_tasks[0].notes[:0] = notes
    return OpenSuite(config, open_tasks, split, config.main_of(configs), seed, prompt, truncate_dim, resamples)


def _data_of(task: TaskConfig, data: Data | None) -> Any:
    """What a task is opened with: own data as the table or folder that they are, else the folder that holds its files.

    Raises
    ------
    DataError
        Own data are needed and not given, or rows in memory are given to a task of known files.
    """
    if not task.own:
        if data is not None and not isinstance(data, str | Path):
            what = f"task {task.name!r} reads files of its own, not rows in memory"
            raise DataError(what, remedy="leave out tasks, so that the rows are scored under their own name")
        return Path(data) if data is not None else None
    if data is None:
        remedy = "name the file or folder: --data, in recipes evaluation.data"
        raise DataError("a suite for own data needs them", where=f"task {task.name}", remedy=remedy)
    content = look(data)
    return content.collection if content.table is None else content.table
