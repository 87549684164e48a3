"""What happens to a caption before its tokens: the cleaning of open_clip's tokenizers, by name.

"whitespace" repairs broken encodings (ftfy), resolves HTML entities twice and joins white space; "lower" also lowers
the case (CLIP); "canonicalize" instead turns underscores into spaces, drops ASCII punctuation and lowers the case
(SigLIP).
"""

from __future__ import annotations

import html
import string
from collections.abc import Callable
from functools import cache

from embedkit.errors import ModelError, nearest

_NO_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def _mended(text: str) -> str:
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def _joined(text: str) -> str:
    return " ".join(text.split())


CLEANINGS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "whitespace": lambda text: _joined(_mended(text)),
    "lower": lambda text: _joined(_mended(text)).lower(),
    "canonicalize": lambda text: _joined(_mended(text).translate(_NO_PUNCTUATION).lower()),
}


@cache
def cleaner(name: str) -> Callable[[str], str]:
    """The function of a cleaning; plain lower-case ASCII, the usual caption, takes a short way.

    Raises
    ------
    ModelError
        For an unknown name.
    MissingExtraError
        When ftfy, which all but "none" need, is not installed.

    Examples
    --------
    >>> cleaner("lower")("  A Dog\\n&amp; a cat"), cleaner("none")("  A Dog")
    ('a dog & a cat', '  A Dog')
    """
    if name not in CLEANINGS:
        raise ModelError(f"unknown cleaning {name!r}", where="cleaning", remedy=nearest(name, CLEANINGS))
    if name != "none":
        from embedkit.errors import need

        need("ftfy", "clip", f"cleaning {name!r}")
    whole = CLEANINGS[name]
    if name in ("none", "canonicalize"):
        return whole

    def clean(text: str) -> str:
        # nothing to repair without an entity, a control character, or anything beyond ASCII
        if text.isascii() and text.isprintable() and "&" not in text:
            return _joined(text).lower() if name == "lower" else _joined(text)
        return whole(text)

    return clean
