"""The registry of kinds of suites, and the names of their scores.

A kind is found by what stands before the colon of a suite's name (``mteb:STS12``); a name without one that no kind has
is a suite written in YAML. A further kind is one file in this folder, or a plug-in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from embedkit.evaluation.core.suites import SuiteConfig
from embedkit.evaluation.datasets.look import Data
from embedkit.evaluation.suites.own import recognise
from embedkit.registry import Registry, derived_from

if TYPE_CHECKING:
    from embedkit.evaluation.core.cache import EmbeddingCache
    from embedkit.evaluation.core.embedder import Encoder, Progress
    from embedkit.evaluation.report.report import Report

Suite = str | Path | SuiteConfig


@dataclass(frozen=True)
class SuiteOptions:
    """What `open_suite` was given beside the suite; its docstring says what each means.

    Examples
    --------
    >>> SuiteOptions(split="dev").resamples
    0
    """

    data: Data | None = None
    tasks: Sequence[str] | None = None
    split: str = "test"
    settings: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    truncate_dim: int | None = None
    resamples: int = 0
    seed: int = 0


class Evaluation(Protocol):
    """A suite whose data are open.

    Examples
    --------
    >>> from embedkit.evaluation import open_suite
    >>> class Lengths:
    ...     def encode(self, texts, **options):
    ...         return [[len(text), 1.0] for text in texts]
    >>> rows = [{"query": "how do I pay?", "positive": "only by card"}, {"query": "where?", "positive": "here"}]
    >>> open_suite("own-retrieval", rows).run(Lengths(), name="lengths").main
    100.0
    """

    def run(
        self,
        model: Encoder,
        progress: Progress | None = None,
        *,
        cache: EmbeddingCache | None = None,
        distributed: bool = False,
        name: str | None = None,
    ) -> Report:
        """The scores of `model`."""


class SuiteKind(ABC):
    """One way to name and to open suites. Registered by the word before the colon.

    Examples
    --------
    >>> SUITES["yaml"]().name("sts")
    'sts'
    """

    @abstractmethod
    def name(self, suite: Suite) -> str:
        """What the suite's results are filed under."""

    @abstractmethod
    def scores(self, suite: Suite, options: SuiteOptions) -> tuple[list[str], str]:
        """Names of the scores that a run gives, the average last, and which of them is the main one; loads no model."""

    def known_settings(self, suite: Suite) -> set[str]:
        """Names of the settings that the suite's tasks know."""
        return set()

    takes_shared_data = False
    """Whether a data folder that is given for several suites is for this kind too."""

    @abstractmethod
    def open(self, suite: Suite, options: SuiteOptions) -> Evaluation:
        """The open suite.

        Raises
        ------
        UserError, DataError
            Naming file, row, column or setting.
        """


SUITES: Registry[type[SuiteKind]] = Registry(
    "kind of suite",
    "embedkit.evaluation.suites",
    plugins="embedkit.suites",
    adopt=derived_from(SuiteKind, "kind of suite", "derive it from embedkit.evaluation.suites.kinds.SuiteKind"),  # type: ignore[type-abstract]
)


def kind_of(suite: Suite) -> SuiteKind:
    """The kind of a suite, by the word before the colon of its name; YAML where there is none.

    Examples
    --------
    >>> kind_of("mteb:STS12").name("mteb:STS12")
    'mteb'
    """
    head, colon, _ = str(suite).partition(":") if isinstance(suite, str) else ("", "", "")
    if head.endswith(".py"):  # a kind of one's own: FILE.py:CLASS
        return SUITES[str(suite)]()
    return SUITES[head]() if colon or head in SUITES else SUITES["yaml"]()


def metric_names(
    suite: Suite | None, tasks: Sequence[str] | None = None, split: str = "test", data: Data | None = None
) -> list[str]:
    """Names ``suite/task`` of the scores that a run gives, the average last; loads no model.

    Examples
    --------
    >>> metric_names("retrieval")
    ['retrieval/scifact', 'retrieval/cranfield', 'retrieval/avg']
    """
    suite = recognise(data).suite if suite is None else suite
    return kind_of(suite).scores(suite, SuiteOptions(data, tasks, split))[0]


def main_metric(
    suite: Suite | None, tasks: Sequence[str] | None = None, split: str = "test", data: Data | None = None
) -> str:
    """The name ``suite/task`` of the score that stands for the suite, e.g. to choose the best checkpoint by.

    Examples
    --------
    >>> main_metric("own-sts", data="my_scores.csv")
    'own-sts/my_scores'
    """
    suite = recognise(data).suite if suite is None else suite
    return kind_of(suite).scores(suite, SuiteOptions(data, tasks, split))[1]
