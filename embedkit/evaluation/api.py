"""Open a suite once, run it on any number of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedkit.errors import UserError, nearest
from embedkit.evaluation.core.cache import EmbeddingCache
from embedkit.evaluation.core.embedder import Encoder, Progress
from embedkit.evaluation.datasets.look import Data
from embedkit.evaluation.report.report import Report
from embedkit.evaluation.suites.kinds import Evaluation, Suite, SuiteOptions, kind_of
from embedkit.evaluation.suites.own import recognise


def open_suite(
    suite: Suite | None = None,
    data: Data | None = None,
    tasks: Sequence[str] | None = None,
    split: str = "test",
    *,
    settings: Mapping[str, Any] | None = None,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    resamples: int = 0,
    seed: int = 0,
    dim: int | None = None,
) -> Any:
    """The open suite: its files are read and checked before any model is loaded.

    Parameters
    ----------
    suite : str, path or SuiteConfig, optional
        Name of a shipped suite, a YAML file, a suite made in Python, or ``mteb:TASK,TASK``: MTEB's own tasks, which
        download their data (``mieb:`` for those with images), or a benchmark (``mteb:MTEB(eng, v2)``), or with `data`
        those of a suite of embedkit, ``mteb:SUITE/TASK`` or ``mteb:SUITE``, scored by mteb. Without it the one
        that `data` can be read by, or "sts".
    data : path or rows, optional
        Folder with the suite's files (or with sub-folders of several suites); without it they come from the hub. For
        the suites ``own-...`` the user's own file or folder, or rows in memory: a list of dicts, a dict of columns, a
        data set of `datasets`, a DataFrame, an Arrow table.
    tasks : sequence of str, optional
        Only these tasks; all that have `split` when not given.
    split : str
        "test", "dev" or "train".
    settings : mapping, optional
        Settings of the tasks, e.g. ``{"aggregation": "wmean"}``; they replace the suite's.
    prompt : str, optional
        Name of the model's prompt for inputs that a task gives no prompt of its own.
    truncate_dim : int, optional
        Keep the first `truncate_dim` numbers of each vector; `dim` is an older name of it.
    resamples : int
        Bootstrap draws for 95 % intervals; 0 for none.
    seed : int
        Seed of everything random: bootstrap, folds, probes.

    Returns
    -------
    OpenSuite or MtebSuite

    Raises
    ------
    UserError, DataError
        Naming file, row, column or setting.

    Examples
    --------
    >>> open_suite(data=[{"sentence1": "a", "sentence2": "b", "score": 1}, {"sentence1": "c", "sentence2": "d",
    ...     "score": 3}]).config.name
    'own-sts'
    """
    size = _size(truncate_dim, dim)
    options = SuiteOptions(data, tasks, split, dict(settings or {}), prompt, size, resamples, seed)
    return _open(suite, options)


def _size(truncate_dim: int | None, dim: int | None) -> int | None:
    """The numbers of each vector to keep, by either name of the argument."""
    if truncate_dim is not None and dim is not None and dim != truncate_dim:
        raise UserError("truncate_dim and dim are two names of one setting", remedy="give truncate_dim alone")
    return dim if truncate_dim is None else truncate_dim


def _open(suite: Suite | None, options: SuiteOptions) -> Evaluation:
    """The open suite; where none is named, the one that the data can be read by, which its notes tell."""
    if suite is not None:
        return kind_of(suite).open(suite, options)
    reading = recognise(options.data)
    evaluation = kind_of(reading.suite).open(reading.suite, options)
    tasks = getattr(evaluation, "tasks", None)
    if reading.taken_for and tasks:
        tasks[0].notes.insert(0, f"taken for {reading.taken_for}: suite {reading.suite}")
    return evaluation


def evaluate(
    model: Encoder | str | Path,
    suite: Suite | None = None,
    data: Data | None = None,
    tasks: Sequence[str] | None = None,
    split: str = "test",
    *,
    settings: Mapping[str, Any] | None = None,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    cache: EmbeddingCache | None = None,
    distributed: bool = False,
    name: str | None = None,
    progress: Progress | None = None,
    dim: int | None = None,
) -> Report:
    """Scores of a model on a suite: `open_suite` and `OpenSuite.run` in one call, with 95 % intervals.

    `model` may also be a folder or hub id for `embedkit.load`; it is loaded when the suite's data have been checked.

    Examples
    --------
    >>> import numpy as np
    >>> class Lengths:
    ...     def encode(self, texts, **options):
    ...         return np.array([[len(text), 1.0] for text in texts])
    >>> rows = [{"query": "how do I pay?", "positive": "only by card"}, {"query": "where?", "positive": "here"}]
    >>> evaluate(Lengths(), data=rows, resamples=0).scores["data"]
    100.0
    """
    evaluation = open_suite(
        suite, data, tasks, split, settings=settings, prompt=prompt, truncate_dim=truncate_dim, resamples=resamples,
        seed=seed, dim=dim,
    )  # fmt: skip
    if isinstance(model, str | Path):
        name = name or str(model)
    report: Report = evaluation.run(_loaded(model), progress, cache=cache, distributed=distributed, name=name)
    return report


def open_suites(
    suites: Sequence[Suite],
    data: Data | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[Any]:
    """Several open suites for the same models; `options` are those of `open_suite`.

    A setting goes to the suites that know it, and must be known to one of them; mteb's own tasks get neither settings
    nor `data` where other suites stand beside them.

    Raises
    ------
    UserError
        A suite is given twice, a setting is unknown to all of them, or as `open_suite` says.

    Examples
    --------
    >>> [one.config.name for one in open_suites(["builtin-sts"], split="dev")]
    ['builtin-sts']
    """
    kinds = [kind_of(suite) for suite in suites]
    names = [kind.name(suite) for kind, suite in zip(kinds, suites, strict=True)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"the suite {twice[0]!r} is given twice", remedy="name each once; mteb:A,B for several tasks")
    values = dict(settings or {})
    known_keys = [kind.known_settings(suite) for kind, suite in zip(kinds, suites, strict=True)]
    shared = any(kind.takes_shared_data for kind in kinds)
    for key in values:
        if shared and not any(key in keys for keys in known_keys):
            raise UserError(f"unknown evaluation setting {key!r}", remedy=nearest(key, set().union(*known_keys)))
    size = _size(options.pop("truncate_dim", None), options.pop("dim", None))
    common = SuiteOptions(data=data, settings=values, truncate_dim=size, **options)
    evaluations = []
    for kind, suite, keys in zip(kinds, suites, known_keys, strict=True):
        part = common
        if shared:
            own_settings = {key: value for key, value in values.items() if key in keys}
            part = replace(common, settings=own_settings, data=data if kind.takes_shared_data else None)
        evaluations.append(kind.open(suite, part))
    return evaluations


def evaluate_all(
    models: Mapping[str, Encoder | str | Path],
    suites: Sequence[Suite],
    data: Data | None = None,
    *,
    cache: EmbeddingCache | None = None,
    **options: Any,
) -> dict[tuple[str, str], Report]:
    """The reports of several models on several suites: ``{(model name, suite name): Report}``.

    All suites are opened before the first model runs; a model given by folder or hub id is loaded when its turn comes.
    The suites share the embeddings of a model; without `cache` these are let go when its turn is over. `options` are
    those of `open_suites`.

    Examples
    --------
    >>> import numpy as np
    >>> class Lengths:
    ...     def encode(self, texts, **options):
    ...         return np.array([[len(text), 1.0] for text in texts])
    >>> rows = [{"query": "how do I pay?", "positive": "only by card"}, {"query": "where?", "positive": "here"}]
    >>> reports = evaluate_all({"lengths": Lengths()}, ["own-retrieval"], rows)
    >>> reports["lengths", "own-retrieval"].main
    100.0
    """
    evaluations = open_suites(suites, data, **options)
    reports = {}
    for name, source in models.items():
        model = _loaded(source)
        shared = EmbeddingCache() if cache is None else cache
        for one in evaluations:
            report = one.run(model, cache=shared, name=name)
            reports[name, report.suite] = report
    return reports


def _loaded(model: Encoder | str | Path) -> Encoder:
    if not isinstance(model, str | Path):
        return model
    from embedkit.formats import load

    return load(str(model))
