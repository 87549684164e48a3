"""Suites written in YAML: the shipped ones, a user's file, a `SuiteConfig` made in Python."""

from __future__ import annotations

from embedkit.evaluation.core.open_suite import OpenSuite, open_own_suite
from embedkit.evaluation.core.suites import load_suite
from embedkit.evaluation.core.task import known_settings
from embedkit.evaluation.suites.kinds import SUITES, Suite, SuiteKind, SuiteOptions
from embedkit.evaluation.suites.own import resolve


@SUITES.add("yaml")
class YamlSuites(SuiteKind):
    """Tasks of embedkit, listed in YAML.

    Examples
    --------
    >>> YamlSuites().scores("own-pairs", SuiteOptions(data="faq.csv"))
    (['own-pairs/faq'], 'own-pairs/faq')
    """

    takes_shared_data = True

    def name(self, suite: Suite) -> str:
        """The suite's own name."""
        return load_suite(suite).name

    def scores(self, suite: Suite, options: SuiteOptions) -> tuple[list[str], str]:
        """``SUITE/TASK`` of the tasks asked for, and of the average."""
        config, _ = resolve(load_suite(suite), options.data, options.tasks)
        configs = config.choose(options.tasks, options.split)
        names = [task.name for task in configs] + (["avg"] if config.average != "none" else [])
        return [f"{config.name}/{name}" for name in names], f"{config.name}/{config.main_of(configs)}"

    def known_settings(self, suite: Suite) -> set[str]:
        """Those that one of its kinds of tasks knows."""
        return known_settings([task.kind for task in load_suite(suite).tasks])

    def open(self, suite: Suite, options: SuiteOptions) -> OpenSuite:
        """See `SuiteKind.open`."""
        return open_own_suite(
            suite, options.data, options.tasks, options.split, settings=options.settings, prompt=options.prompt,
            truncate_dim=options.truncate_dim, resamples=options.resamples, seed=options.seed,
        )  # fmt: skip
