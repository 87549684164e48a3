"""Short stories that embedkit makes itself, in the forms of DiscoEval's files; no download, no chance.

A story is five or six sentences about one actor and one thing, of the grammar of `embedkit.data.builtin.sentences`. A
word of time at the head of each sentence tells its place, the actor and the thing tell what belongs together, and what
opens the first sentence of a report tells it from the rest; a probe that learns nothing from these gets chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from embedkit.data.builtin.sentences import _SPLITS, _Draws
from embedkit.data.builtin.words import SLOTS
from embedkit.errors import DataError, nearest

TIMES = ("last week", "this morning", "today", "once again", "without doubt", "perhaps")
_SIZES = {"train": 400, "valid": 120, "test": 120}
_SEEDS = {"train": 21, "valid": 22, "test": 23}
_NAMES = {"valid": "dev"}


def rows(form: str, split: str) -> Iterator[list[str]]:
    """The cells of each row, the label first where the form has one, always the same ones in the same order.

    Parameters
    ----------
    form : str
        "position" (label 0 to 4: the place that the first sentence had, then the five), "order" (two sentences as they
        stand), "coherence" (label 1 for six sentences of one story, 0 with one of another in their midst) or "section"
        (label 1 for the opening sentence of a report).
    split : str
        "train", "valid" or "test"; actors and things are combined differently in each.

    Raises
    ------
    DataError
        There is no such form or split.

    Examples
    --------
    >>> next(rows("order", "test"))
    ['this morning the sailor tucks away the massive stone near the altar', 'today the sailor cleans ...']
    """
    if form not in _FORMS or split not in _SIZES:
        what, names = (form, _FORMS) if form not in _FORMS else (split, _SIZES)
        raise DataError(f"no stories for {what!r}", remedy=nearest(what, names))
    draws = _Draws(_SEEDS[split] * 0x1000003D1)
    return (_FORMS[form](draws, _NAMES.get(split, split)) for _ in range(_SIZES[split]))


def _topic(draws: _Draws, split: str) -> tuple[int, int]:
    """An actor and a thing that belong to the split."""
    actors, _, _, things, _ = SLOTS.values()
    while True:
        actor, thing = draws.below(len(actors)), draws.below(len(things))
        if _Draws(actor * 1009 + thing).below(10) in _SPLITS[split]:
            return actor, thing


def _sentence(draws: _Draws, topic: tuple[int, int], opening: str) -> str:
    """A sentence about a topic."""
    actors, actions, attributes, things, places = SLOTS.values()
    actor, thing = (slot[which][0] for slot, which in ((actors, topic[0]), (things, topic[1])))
    action, attribute, place = (
        wordings[draws.below(len(wordings))]
        for wordings in (slot[draws.below(len(slot))] for slot in (actions, attributes, places))
    )
    return f"{opening} the {actor} {action.partition('|')[0]} the {attribute} {thing} {place}"


def _story(draws: _Draws, split: str, count: int) -> list[str]:
    topic = _topic(draws, split)
    return [_sentence(draws, topic, TIMES[place]) for place in range(count)]


def _position(draws: _Draws, split: str) -> list[str]:
    story = _story(draws, split, 5)
    place = draws.below(5)
    return [str(place), story[place], *story[:place], *story[place + 1 :]]


def _order(draws: _Draws, split: str) -> list[str]:
    story = _story(draws, split, 5)
    place = draws.below(4)
    return story[place : place + 2]


def _coherence(draws: _Draws, split: str) -> list[str]:
    story, other = _story(draws, split, 6), _story(draws, split, 6)
    one = draws.chance(50)
    if not one:
        place = 1 + draws.below(4)
        story[place] = other[place]
    return [str(int(one)), *story]


def _section(draws: _Draws, split: str) -> list[str]:
    first = draws.chance(50)
    return [str(int(first)), _sentence(draws, _topic(draws, split), "it seems that" if first else "as usual")]


_FORMS: dict[str, Callable[[_Draws, str], list[str]]] = {
    "position": _position,
    "order": _order,
    "coherence": _coherence,
    "section": _section,
}
