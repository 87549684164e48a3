"""mteb's tasks and benchmarks, on its own data or on local ones, as suites ``mteb:`` and ``mieb:``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedkit.config.resources import suite_names
from embedkit.errors import UserError
from embedkit.evaluation.core.suites import load_suite
from embedkit.evaluation.core.task import TASKS
from embedkit.evaluation.mteb.names import mteb_names, mteb_task_name, official_tasks
from embedkit.evaluation.suites.kinds import SUITES, Suite, SuiteKind, SuiteOptions
from embedkit.evaluation.suites.own import resolve

if TYPE_CHECKING:
    from embedkit.evaluation.mteb.adapter import MtebSuite


@SUITES.add("mteb")
@SUITES.add("mieb")
class MtebSuites(SuiteKind):
    """``mteb:TASK,TASK``, ``mteb:BENCHMARK``, and with local data ``mteb:SUITE/TASK`` or ``mteb:SUITE``.

    Examples
    --------
    >>> MtebSuites().scores("mteb:retrieval/scifact", SuiteOptions())
    (['mteb/retrieval-scifact', 'mteb/avg'], 'mteb/avg')
    """

    def name(self, suite: Suite) -> str:
        """One name for all lists of mteb's tasks."""
        return "mteb"

    def scores(self, suite: Suite, options: SuiteOptions) -> tuple[list[str], str]:
        """``mteb/TASK``, and the average; mteb is imported only to look up its own names."""
        names: list[str] = []
        for name in mteb_names(str(suite)):
            head, slash, task = name.partition("/")
            if not slash and head not in suite_names() and not head.endswith((".yaml", ".yml")):
                names += [one.metadata.name for one in official_tasks(name)]
                continue
            tasks = [task] if task else None
            config, _ = resolve(load_suite(head), options.data, tasks)
            for one in config.choose(tasks, options.split):
                names += [mteb_task_name(config.name, one.name, way) for way in TASKS[one.kind].mteb_ways]
        return [f"mteb/{name}" for name in [*names, "avg"]], "mteb/avg"

    def open(self, suite: Suite, options: SuiteOptions) -> MtebSuite:
        """See `SuiteKind.open`; mteb's tasks take no task list and no settings."""
        from embedkit.evaluation.mteb.adapter import open_mteb

        if options.tasks is not None or options.settings:
            raise UserError("mteb tasks take no task list or settings", remedy="name the tasks after mteb:")
        more: dict[str, Any] = {"prompt": options.prompt, "truncate_dim": options.truncate_dim, "seed": options.seed}
        if options.data is None:
            return open_mteb(str(suite), options.split, **more)
        from embedkit.evaluation.mteb.local import local_tasks

        return open_mteb(local_tasks(mteb_names(str(suite)), options.data, options.split), **more)
