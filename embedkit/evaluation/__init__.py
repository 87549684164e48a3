"""Evaluation: suites, scores that can be repeated, comparison, reports.

Names are imported when they are first used, so that importing the package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkit.evaluation.cache import EmbeddingCache
    from embedkit.evaluation.card import card_of_run, keep_report, model_card, write_card
    from embedkit.evaluation.comparison import Comparison, compare, compare_reports
    from embedkit.evaluation.embedder import Embedder, Encoder
    from embedkit.evaluation.inputs import EncodedImage
    from embedkit.evaluation.mteb_adapter import MtebEncoder, MtebSuite, open_mteb
    from embedkit.evaluation.pages import html_report, write_html
    from embedkit.evaluation.report import Report, load_reports, save_reports
    from embedkit.evaluation.run import OpenSuite, evaluate, evaluate_all, open_suite, open_suites
    from embedkit.evaluation.suites import (
        SuiteConfig,
        TaskConfig,
        describe_suites,
        load_suite,
        main_metric,
        metric_names,
    )
    from embedkit.evaluation.task import TASKS, Task, TaskResult

_HOMES = {
    "cache": ("EmbeddingCache",),
    "card": ("card_of_run", "keep_report", "model_card", "write_card"),
    "comparison": ("Comparison", "compare", "compare_reports"),
    "embedder": ("Embedder", "Encoder"),
    "inputs": ("EncodedImage",),
    "mteb_adapter": ("MtebEncoder", "MtebSuite", "open_mteb"),
    "pages": ("html_report", "write_html"),
    "report": ("Report", "load_reports", "save_reports"),
    "run": ("OpenSuite", "evaluate", "evaluate_all", "open_suite", "open_suites"),
    "suites": ("SuiteConfig", "TaskConfig", "describe_suites", "load_suite", "main_metric", "metric_names"),
    "task": ("TASKS", "Task", "TaskResult"),
}
_LAZY = {name: f"embedkit.evaluation.{home}" for home, names in _HOMES.items() for name in names}

__all__ = [
    "TASKS",
    "Comparison",
    "Embedder",
    "EmbeddingCache",
    "EncodedImage",
    "Encoder",
    "MtebEncoder",
    "MtebSuite",
    "OpenSuite",
    "Report",
    "SuiteConfig",
    "Task",
    "TaskConfig",
    "TaskResult",
    "card_of_run",
    "compare",
    "compare_reports",
    "describe_suites",
    "evaluate",
    "evaluate_all",
    "html_report",
    "keep_report",
    "load_reports",
    "load_suite",
    "main_metric",
    "metric_names",
    "model_card",
    "open_mteb",
    "open_suite",
    "open_suites",
    "save_reports",
    "write_card",
    "write_html",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
