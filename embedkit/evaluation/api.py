"""Open a suite once, run it on any number of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import UserError, nearest
from embedkit.evaluation.core.cache import EmbeddingCache
from embedkit.evaluation.core.embedder import Encoder, Progress
from embedkit.evaluation.core.open_suite import OpenSuite, open_own_suite
from embedkit.evaluation.core.suites import SuiteConfig, is_mteb, load_suite, mteb_names
from embedkit.evaluation.core.task import known_settings
from embedkit.evaluation.report.report import Report

if TYPE_CHECKING:
    from embedkit.evaluation.mteb.adapter import MtebSuite


def _open_mteb(
    suite: str, data: Any, tasks: Any, split: str, settings: Any, prompt: str | None, dim: int | None, seed: int
) -> MtebSuite:
    from embedkit.evaluation.mteb.adapter import open_mteb

    if tasks is not None or settings:
        raise UserError("mteb tasks take no task list or settings", remedy="name the tasks after mteb:")
    if data is None:
        return open_mteb(suite, split, prompt=prompt, dim=dim, seed=seed)
    from embedkit.evaluation.mteb.local import local_tasks

    return open_mteb(local_tasks(mteb_names(suite), data, split), prompt=prompt, dim=dim, seed=seed)


def open_suite(
    suite: str | Path | SuiteConfig = "sts",
    data: str | Path | None = None,
    tasks: Sequence[str] | None = None,
    split: str = "test",
    *,
    settings: Mapping[str, Any] | None = None,
    prompt: str | None = None,
    dim: int | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> OpenSuite | MtebSuite:
    """Open a suite: its files are read and checked before any model is loaded.

    Parameters
    ----------
    suite : str, path or SuiteConfig
        Name of a shipped suite, a YAML file, a suite made in Python, or ``mteb:TASK,TASK``: MTEB's own tasks, which
        download their data (``mieb:`` for those with images), or with `data` those of a suite of embedkit,
        ``mteb:SUITE/TASK`` or ``mteb:SUITE``, scored by mteb.
    data : path, optional
        Folder with the suite's files (or with sub-folders of several suites); without it they come from the hub.
    tasks : sequence of str, optional
        Only these tasks; all that have `split` when not given.
    split : str
        "test", "dev" or "train".
    settings : mapping, optional
        Settings of the tasks, e.g. ``{"aggregation": "wmean"}``; they replace the suite's.
    prompt : str, optional
        Name of the model's prompt for inputs that a task gives no prompt of its own.
    dim : int, optional
        Keep the first `dim` numbers of each vector.
    resamples : int
        Bootstrap draws for 95 % intervals; 0 for none.
    seed : int
        Seed of everything random: bootstrap, folds, probes.

    Raises
    ------
    UserError, DataError
        Naming file, row, column or setting.
    """
    if is_mteb(suite):
        return _open_mteb(str(suite), data, tasks, split, settings, prompt, dim, seed)
    return open_own_suite(
        suite, data, tasks, split, settings=settings, prompt=prompt, dim=dim, resamples=resamples, seed=seed
    )


def evaluate(
    model: Encoder | str | Path,
    suite: str | Path | SuiteConfig = "sts",
    data: str | Path | None = None,
    tasks: Sequence[str] | None = None,
    split: str = "test",
    *,
    settings: Mapping[str, Any] | None = None,
    prompt: str | None = None,
    dim: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    cache: EmbeddingCache | None = None,
    distributed: bool = False,
    name: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Scores of a model on a suite: `open_suite` and `OpenSuite.run` in one call, with 95 % intervals.

    `model` may also be a folder or hub id for `embedkit.load`; it is loaded when the suite's data have been checked.

    Examples
    --------
    >>> report = evaluate(model, "sts", data="data/sts")  # doctest: +SKIP
    >>> report.scores["avg"]  # doctest: +SKIP
    """
    opened = open_suite(
        suite, data, tasks, split, settings=settings, prompt=prompt, dim=dim, resamples=resamples, seed=seed
    )
    if isinstance(model, str | Path):
        name = name or str(model)
    return opened.run(_loaded(model), progress, cache=cache, distributed=distributed, name=name)


def open_suites(
    suites: Sequence[str | Path | SuiteConfig],
    data: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[OpenSuite | MtebSuite]:
    """Open several suites for the same models; `options` are those of `open_suite`.

    A setting goes to the suites that know it, and must be known to one of them; mteb's own tasks get neither settings
    nor `data` where other suites stand beside them.

    Raises
    ------
    UserError
        A suite is given twice, a setting is unknown to all of them, or as `open_suite` says.
    """
    own = {place: load_suite(suite) for place, suite in enumerate(suites) if not is_mteb(suite)}
    names = [own[place].name if place in own else "mteb" for place in range(len(suites))]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"the suite {twice[0]!r} is given twice", remedy="name each once; mteb:A,B for several tasks")
    given, opened = dict(settings or {}), []
    known = {place: known_settings([task.kind for task in config.tasks]) for place, config in own.items()}
    for key in given:
        if own and not any(key in keys for keys in known.values()):
            raise UserError(f"unknown evaluation setting {key!r}", remedy=nearest(key, set().union(*known.values())))
    for place, suite in enumerate(suites):
        if place in own:
            chosen = {key: value for key, value in given.items() if key in known[place]}
            opened.append(open_suite(own[place], data, settings=chosen, **options))
        else:
            opened.append(open_suite(suite, None if own else data, settings=None if own else given, **options))
    return opened


def evaluate_all(
    models: Mapping[str, Encoder | str | Path],
    suites: Sequence[str | Path | SuiteConfig],
    data: str | Path | None = None,
    *,
    cache: EmbeddingCache | None = None,
    **options: Any,
) -> dict[tuple[str, str], Report]:
    """Several models on several suites: ``{(model name, suite name): Report}``.

    All suites are opened before the first model runs; a model given by folder or hub id is loaded when its turn comes.
    The suites share the embeddings of a model; without `cache` these are let go when its turn is over. `options` are
    those of `open_suites`.
    """
    opened = open_suites(suites, data, **options)
    reports = {}
    for name, given in models.items():
        model = _loaded(given)
        kept = EmbeddingCache() if cache is None else cache
        for one in opened:
            report = one.run(model, cache=kept, name=name)
            reports[name, report.suite] = report
    return reports


def _loaded(model: Encoder | str | Path) -> Encoder:
    if not isinstance(model, str | Path):
        return model
    from embedkit.formats import load

    return load(str(model))
