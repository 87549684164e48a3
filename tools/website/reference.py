"""Pages of the Python API, written by mkdocstrings from the docstrings."""

from __future__ import annotations

import re
from pathlib import Path

STUB = Path(__file__).resolve().parents[2] / "embedkit" / "__init__.pyi"

PAGES: dict[str, tuple[str, str, list[str]]] = {
    "model": ("Models", "Read, use, write and convert models.", [
        "embedkit.load", "embedkit.Model", "embedkit.save", "embedkit.export", "embedkit.fuse",
        "embedkit.push", "embedkit.engine", "embedkit.VectorRanges", "embedkit.quantize", "embedkit.dequantize",
    ]),
    "training": ("Training", "Run a recipe, and what a run returns and calls.", [
        "embedkit.train", "embedkit.TrainResult", "embedkit.Recipe", "embedkit.training.monitor.callbacks",
    ]),
    "evaluation": ("Evaluation", "Score a model on a suite or on your own data.", [
        "embedkit.evaluate", "embedkit.Report",
    ]),
    "mining": ("Mining and training data", "Find negatives, positives and translations; score and choose rows.", [
        "embedkit.mine", "embedkit.MiningResult", "embedkit.mine_positives", "embedkit.mine_paraphrases",
        "embedkit.mine_bitext", "embedkit.generate", "embedkit.score", "embedkit.select", "embedkit.dedup",
        "embedkit.label",
    ]),
    "search": ("Search", "Build an index and search it.", [
        "embedkit.build_index", "embedkit.index_vectors", "embedkit.Index", "embedkit.Hit", "embedkit.search",
    ]),
    "parts": ("Parts of your own", "What a method, view or objective of your own is made of.", [
        "embedkit.methods.base.Method", "embedkit.methods.base.View", "embedkit.views.base.Step",
        "embedkit.views.base.Chain", "embedkit.objectives.kernel.table_preset", "embedkit.objectives.base.Objective",
        "embedkit.data.schema.contract.Contract", "embedkit.registry.Registry",
    ]),
    "errors": ("Errors", "Every error that a user can mend is a `UserError`: what, where, remedy.", [
        "embedkit.errors",
    ]),
}  # fmt: skip
"""File of a page -> title, a sentence, the names on it."""


def public() -> dict[str, str]:
    """Names that `embedkit` itself offers, and where each is defined.

    Examples
    --------
    >>> public()["embedkit.load"]
    'embedkit.formats.loading.load'
    """
    lines = re.findall(r"^from \.([\w.]+) import (\w+) as \w+$", STUB.read_text(encoding="utf-8"), re.MULTILINE)
    return {f"embedkit.{name}": f"embedkit.{module}.{name}" for module, name in lines}


def pages() -> dict[str, str]:
    """File on the site -> text of the pages of the API.

    Examples
    --------
    >>> pages()["api/evaluation.md"].splitlines()[0]
    '# Evaluation: Python API'
    """
    texts, homes = {}, public()
    for file, (title, sentence, names) in PAGES.items():
        blocks = "".join(_block(name, homes.get(name, name)) for name in names)
        texts[f"api/{file}.md"] = f"# {title}: Python API\n\n{sentence}\n{blocks}"
    return texts


def _block(name: str, home: str) -> str:
    """What mkdocstrings reads: the definition, under the name that is imported."""
    return f"\n::: {home}\n    options: {{heading: {name}, toc_label: {name.rsplit('.', 1)[1]}}}\n"
