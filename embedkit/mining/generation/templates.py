"""Prompts for a writer of texts, and what its answers are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedkit.errors import DataError, UserError, nearest

KINDS = ("positives", "negatives", "triplets", "ranking", "queries")
"""What a template asks for: texts that mean the same; texts that look alike and mean something else; one of each; a
list from the nearest in meaning to the farthest; questions that the text answers."""

_LIST = "Keep its language. Answer with a JSON list of {number} strings and nothing else."
_HEAD = "Here is a text:\n\n{text}\n\n"


@dataclass(frozen=True)
class Template:
    """A prompt with ``{text}`` and ``{number}`` in it.

    Attributes
    ----------
    name : str
        Of the template, or the path of its file.
    kind : str
        One of `KINDS`: how answers are read, and which rows they make.
    prompt : str
        The text.

    Examples
    --------
    >>> Template("mine", "queries", "Write {number} questions about: {text}").of("a cat", 2)
    'Write 2 questions about: a cat'
    """

    name: str
    kind: str
    prompt: str

    def of(self, text: str, number: int) -> str:
        """The prompt for a text; braces in the text itself are left alone."""
        before, _, after = self.prompt.partition("{text}")
        return before.replace("{number}", str(number)) + text + after.replace("{number}", str(number))


_PROMPTS = {
    "positives": (
        f"{_HEAD}Write {{number}} other texts that say the same. Each has about the same length, uses other words and "
        f"another order of the sentence, and neither adds nor leaves out anything. {_LIST}"
    ),
    "negatives": (
        f"{_HEAD}Write {{number}} texts that share its topic and many of its words, but do not say the same: a detail "
        "that matters differs (who, what, when, how many, or whether at all), so that nobody who knows one of them to "
        f"be true could conclude the other. {_LIST}"
    ),
    "triplets": (
        f"{_HEAD}Write one text that follows from it or says the same in other words, and one that shares its topic "
        "and many of its words but contradicts it or says something else. Keep its language. Answer with a JSON object "
        '{"positive": ..., "negative": ...} and nothing else.'
    ),
    "ranking": (
        f"{_HEAD}Write {{number}} texts in an order: the first says exactly the same in other words, and each further "
        "one has a little less in common with it than the one before, until the last shares nothing but the general "
        f"topic. {_LIST}"
    ),
    "queries": (
        "Here is a passage:\n\n{text}\n\nWrite {number} different questions or search queries that somebody could type "
        'who does not know the passage and finds the answer in it. Name what they are about; do not write "the '
        f'passage" or "the text". {_LIST}'
    ),
}
TEMPLATES = {name: Template(name, name, prompt) for name, prompt in _PROMPTS.items()}
"""Our own templates by name."""


def template_of(name: str | Path, kind: str | None = None) -> Template:
    """A template by its name, or that of a file with ``{text}`` in it.

    Parameters
    ----------
    name : str or Path
        One of `TEMPLATES`, or a file.
    kind : str, optional
        Which of `KINDS` the file's answers are.

    Raises
    ------
    UserError
        The name or kind is unknown, or the kind is missing or has no effect.
    DataError
        The file cannot be read, or lacks ``{text}``.

    Examples
    --------
    >>> template_of("queries").kind
    'queries'
    >>> _ = Path("my.txt").write_text("Shorten: {text}")
    >>> template_of("my.txt", "positives").of("a very small cat", 1)
    'Shorten: a very small cat'
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"{kind!r} is no kind", where="kind", remedy=nearest(kind, KINDS))
    if str(name) in TEMPLATES:
        if kind is not None and kind != TEMPLATES[str(name)].kind:
            raise UserError(f"the template {name!r} is of the kind {TEMPLATES[str(name)].kind!r}", where="kind",
                            remedy="leave it out")  # fmt: skip
        return TEMPLATES[str(name)]
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"no template {str(name)!r}", where="template",
                        remedy=f"{nearest(str(name), TEMPLATES)}, or give a file with {{text}} in it")  # fmt: skip
    if kind is None:
        raise UserError("what a template of a file asks for is not known", where="kind",
                        remedy=f"say it, one of {', '.join(KINDS)}")  # fmt: skip
    try:
        prompt = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as UTF-8 ({error})", where=str(path), remedy="save it as UTF-8") from error
    if prompt.count("{text}") != 1:
        raise DataError("a template holds {text} once, where the text goes", where=str(path), remedy="write it there")
    return Template(str(name), kind, prompt)
