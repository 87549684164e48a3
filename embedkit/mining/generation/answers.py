"""From what a writer answered to texts: JSON, lines, lists with numbers; refusals and repeats are counted and left out.

Nothing here evaluates an answer: it is read as JSON or as lines of text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedkit.data.schema.parsers import TextReader, is_blank
from embedkit.data.schema.rows import BadRow
from embedkit.mining.pairs import text_key

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```[\w-]*\s*\n?(.*?)(?:```|\Z)", re.DOTALL)
_BULLET = re.compile(r"^\s*(?:[-*\u2022\u2013]\s+|[(\[]?\d{1,3}[.):\]]\s+|[(\[]?[a-zA-Z][.):]\s+)")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "\u201e": "\u201c"}
_REFUSAL = re.compile(
    r"(?:i['\u2019]?m |i am )?(?:very |truly |so )?(?:sorry|afraid)\b|i can(?:no|['\u2019])t\b"
    r"|i (?:am unable|won['\u2019]t)\b|i['\u2019]m (?:unable|not able)\b"
    r"|as an? (?:ai|artificial|language model|large language)|unfortunately,? i\b",
    re.IGNORECASE,
)
MAX_CHARS = 20_000
"""Characters of a generated text at most."""


@dataclass
class Answer:
    """The texts of an answer, and why others of it were left out.

    Attributes
    ----------
    texts : list of str
        In the order of the answer.
    rejections : Counter
        Reason -> texts; ``no text`` for an answer that holds none.

    Examples
    --------
    >>> texts_of('["a dog", "a dog", "A cat"]', "a cat", 3)
    Answer(texts=['a dog'], rejections=Counter({'repeat': 1, 'same as the text': 1}))
    """

    texts: list[str] = field(default_factory=list)
    rejections: Counter[str] = field(default_factory=Counter)


def texts_of(answer: Any, text: str, number: int) -> Answer:
    """The texts of an answer: at most `number`, each once, none equal to `text`.

    Parameters
    ----------
    answer : str, list or mapping
        JSON, also inside other words or a fence; else a text a line, with or without numbers; or a list of texts.
    text : str
        What the prompt was about.
    number : int
        Texts that were asked for; more of them are left out as ``too many``.

    Examples
    --------
    >>> texts_of("Here are two:\\n1. a big dog\\n2. a small dog", "a cat", 2).texts
    ['a big dog', 'a small dog']
    >>> texts_of("I'm sorry, but I cannot do that.", "a cat", 2).rejections
    Counter({'refusal': 1})
    """
    result = Answer()
    keys = {_key(text)}
    candidates = list(_texts(answer))
    reader = TextReader(max_chars=MAX_CHARS, cut=False)
    for one in candidates:
        one = _unquoted(one.strip())
        if is_blank(one):
            continue
        reason = None
        try:
            reader.text(one)
        except BadRow as bad:
            reason = bad.reason
        if _REFUSAL.match(one):
            reason = "refusal"
        elif _key(one) == _key(text):
            reason = "same as the text"
        elif _key(one) in keys:
            reason = "repeat"
        elif reason is None and len(result.texts) == number:
            reason = "too many"
        if reason is not None:
            result.rejections[reason] += 1
            continue
        keys.add(_key(one))
        result.texts.append(one)
    if not result.texts and not result.rejections:
        result.rejections["no text"] += 1
    return result


def triplet_of(answer: Any, text: str) -> Answer:
    """The positive and the negative of an answer, in this order, or none where one of them is missing.

    Examples
    --------
    >>> triplet_of('{"positive": "a feline", "negative": "a dog"}', "a cat").texts
    ['a feline', 'a dog']
    """
    value = _json(_plain(answer)) if isinstance(answer, str) else answer
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    names = {str(name).lower(): cell for name, cell in value.items()} if isinstance(value, Mapping) else {}
    pair = [names.get("positive"), names.get("negative")]
    if isinstance(value, list) and len(value) == 2:
        pair = value
    if not all(isinstance(one, str) for one in pair):
        is_refusal = isinstance(answer, str) and _REFUSAL.match(answer.strip()) is not None
        return Answer(rejections=Counter({"refusal" if is_refusal else "no triplet": 1}))
    result = texts_of(pair, text, 2)
    return result if len(result.texts) == 2 else Answer(rejections=result.rejections or Counter({"no triplet": 1}))


def _key(text: str) -> str:
    return text_key(text).casefold().strip(".!?\u3002 ")


def _plain(answer: str) -> str:
    """An answer without the thoughts of a reasoning model."""
    return _THOUGHT.sub("", answer).strip()


def _texts(answer: Any) -> Iterable[str]:
    if isinstance(answer, str):
        plain = _plain(answer)
        value = _json(plain)
        if value is None:
            yield from _lines(plain)
            return
        answer = value
    if isinstance(answer, Mapping):
        lists = [cell for cell in answer.values() if isinstance(cell, list)]
        answer = lists[0] if lists else list(answer.values())
    for one in answer if isinstance(answer, list | tuple) else ():
        if isinstance(one, Mapping):  # {"query": "..."}
            one = next((cell for cell in one.values() if isinstance(cell, str)), "")
        if isinstance(one, str):
            yield one


def _json(text: str) -> Any:
    """The JSON list or object in a text, whole or cut off in its last string; None where there is none."""
    fence = _FENCE.search(text)
    for body in ([fence[1]] if fence else []) + [text]:
        starts = [place for place in (body.find("["), body.find("{")) if place >= 0]
        if not starts:
            continue
        start = min(starts)
        close = "]" if body[start] == "[" else "}"
        try:
            value = json.loads(body[start : body.rfind(close) + 1])
        except (ValueError, RecursionError):
            if body[start:].lstrip("[ \n").startswith('"'):
                return [_unescaped(match) for match in _STRING.findall(body[start:])]
            continue
        if isinstance(value, list | dict) and value:
            return value
    return None


def _unescaped(body: str) -> str:
    try:
        return str(json.loads(f'"{body}"', strict=False))
    except ValueError:
        return body


def _lines(text: str) -> Iterable[str]:
    """The lines of a text without their numbers; where some are numbered, only those."""
    lines = [line for line in text.splitlines() if not is_blank(line) and not line.lstrip().startswith("```")]
    bullets = [line for line in lines if _BULLET.match(line)]
    if bullets and not _REFUSAL.match(text):
        return [_BULLET.sub("", line, count=1) for line in bullets]
    return [line for line in lines if not (line.rstrip().endswith(":") and len(lines) > 1)]


def _unquoted(text: str) -> str:
    """A text without the quotation marks around it."""
    close = _QUOTES.get(text[:1])
    return text[1:-1].strip() if close is not None and len(text) > 1 and text.endswith(close) else text
