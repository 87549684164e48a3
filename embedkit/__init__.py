"""Train and evaluate embeddings of sentences and images.

Everything named here is imported when it is first used, so that ``import embedkit`` is quick. The names stand once, in
``__init__.pyi``.
"""

from __future__ import annotations

import lazy_loader

from embedkit.registry import services

__version__ = "0.2.0"

__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __dir__() -> list[str]:
    return __all__


services["save"] = "embedkit.formats.saving:save"
services["push"] = "embedkit.evaluation.report.push:push"
services["centres_of"] = "embedkit.mining.labels.kmeans:centres_of"
services["check_format"] = "embedkit.data.sources.registry:check_format"
services["label"] = "embedkit.mining.labels.api:label"
services["mine"] = "embedkit.mining.api:mine"
