"""Names of mteb's tasks and benchmarks, and of embedkit's suites as tasks of mteb; imports mteb only where asked."""

from __future__ import annotations

import re
from typing import Any

from embedkit.errors import MissingExtraError, UserError, nearest

_COMMA = re.compile(r",(?![^()]*\))")
"""A comma that stands in no brackets: ``MTEB(eng, v2)`` is one name."""


def import_mteb() -> Any:
    """The package mteb.

    Raises
    ------
    MissingExtraError
        It is not installed.

    Examples
    --------
    >>> import_mteb().__name__
    'mteb'
    """
    try:
        import mteb
    except ImportError as error:
        raise MissingExtraError("mteb", "mteb", "an MTEB task") from error
    return mteb


def mteb_names(suite: str) -> list[str]:
    """Names of tasks, benchmarks or embedkit's suites in ``"mteb:A,B"`` or ``"mieb:A"``.

    Raises
    ------
    UserError
        No name stands after the colon.

    Examples
    --------
    >>> mteb_names("mteb:STS12,MTEB(eng, v2)")
    ['STS12', 'MTEB(eng, v2)']
    """
    names = [name.strip() for name in _COMMA.split(suite.partition(":")[2]) if name.strip()]
    if not names:
        raise UserError(f"suite {suite!r} names no task", remedy="write mteb:TASK, mteb:TASK,TASK or mteb:BENCHMARK")
    return names


def mteb_task_name(suite: str, task: str, way: str = "") -> str:
    """What a task of a suite of embedkit is called as a task of mteb.

    Examples
    --------
    >>> mteb_task_name("image-text", "emoji", "-i2t")
    'image-text-emoji-i2t'
    """
    return f"{suite}-{task}{way}"


def official_tasks(name: str) -> list[Any]:
    """mteb's own tasks of a name: one task, or all tasks of a benchmark such as ``MTEB(eng, v2)`` or ``NanoBEIR``.

    Raises
    ------
    UserError
        mteb knows neither a task nor a benchmark of that name; the nearest one is offered.

    Examples
    --------
    >>> [task.metadata.name for task in official_tasks("STS12")]
    ['STS12']
    """
    mteb = import_mteb()
    for get in (mteb.get_task, lambda one: list(mteb.get_benchmark(one).tasks)):
        try:
            tasks = get(name)
        except KeyError:
            continue
        return tasks if isinstance(tasks, list) else [tasks]
    names = [task.metadata.name for task in mteb.get_tasks(exclude_superseded=False, exclude_aggregate=False)]
    names += [benchmark.name for benchmark in mteb.get_benchmarks()]
    raise UserError(f"mteb has no task and no benchmark {name!r}", remedy=nearest(name, names))
