"""One case or more of every preset: settings, inputs, oracle. Modules are grouped as the formulas are."""

from __future__ import annotations

import importlib
import pkgutil

from tests.objectives.harness import Case

CASES: list[Case] = [
    case
    for module in sorted(found.name for found in pkgutil.iter_modules(__path__))
    for case in importlib.import_module(f"{__name__}.{module}").CASES
]
