"""Cleaning of captions against open_clip's own functions, and how often each is made."""

from __future__ import annotations

import pytest

from embedkit.errors import ModelError
from embedkit.models.inputs.text_normalization import CLEANINGS, cleaner

pytest.importorskip("open_clip")

CAPTIONS = [
    "", " ", "a cat", "A  Cat\t on\na mat ", "naïve café ☕ 日本語", "mojibake cafÃ© and â€œquotesâ€\x9d",
    "salt &amp; pepper",
    "salt &amp;amp; pepper", "&lt;b&gt; 5 &gt; 3", "under_score and-dash", "Hello, World! (it's 3.5)", "ﬁsh ﬂat",
    "İSTANBUL",
    "\x00null", "tab\x0bvertical", "non\u00a0breaking", "zero\u200bwidth", "“smart” ‘quotes’…", "a" * 500, "!!!", "ÀÉÎ",
    "don't 'S I'M", "100% #1 @home $5", "é", "ß STRASSE", "​", "ǅungla", "１２３ＡＢＣ", "emoji 👩‍👩‍👧 family",
]  # fmt: skip


def theirs(name: str) -> object:
    from open_clip.tokenizer import get_clean_fn

    return get_clean_fn(name)


@pytest.mark.parametrize("name", ["lower", "whitespace", "canonicalize"])
def test_a_cleaning_is_that_of_open_clip(name: str) -> None:
    clean = theirs(name)
    for caption in CAPTIONS:
        assert cleaner(name)(caption) == clean(caption), repr(caption)  # type: ignore[operator]


@pytest.mark.parametrize("name", CLEANINGS)
def test_the_short_way_for_plain_text_is_the_long_way(name: str) -> None:
    whole = CLEANINGS[name]
    letters = [chr(code) for code in range(32, 127)]
    texts = ["".join(letters), "a  b   c", " lead and trail ", "MiXeD CaSe 42", "x & y", "&amp", "&", *letters]
    for text in texts:
        assert cleaner(name)(text) == whole(text), repr(text)


@pytest.mark.parametrize("name", CLEANINGS)
def test_cleaning_twice_changes_nothing(name: str) -> None:
    clean = cleaner(name)
    for caption in CAPTIONS:
        if "&" not in caption:  # an entity that is resolved may be the start of another
            assert clean(clean(caption)) == clean(caption)


def test_none_leaves_a_text_alone() -> None:
    for caption in CAPTIONS:
        assert cleaner("none")(caption) is caption


def test_a_cleaner_is_made_once() -> None:
    assert cleaner("lower") is cleaner("lower")


def test_an_unknown_cleaning_is_named() -> None:
    with pytest.raises(ModelError, match="cleaning: unknown cleaning 'lowercase'; did you mean 'lower'"):
        cleaner("lowercase")
