"""What an English caption says, roughly and fast: relations between things, and actions.

There is no parser here: prepositions are relations, and verbs are told by lists of the words that captions of pictures
use and by their endings and neighbours. A parser of one's own can be named instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from embedkit.views.selection import FUNCTION_WORDS

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_RELATIONS_TEXT = """
about above across after against along alongside amid among around aside at atop before behind below beneath beside
between beyond by down during from in inside into near off on onto opposite outside over past through toward towards
under underneath up upon via with within without wearing
"""
_RELATIONS = frozenset(_RELATIONS_TEXT.split())
_BEFORE_NOUNS_TEXT = """
a an the this that these those my your his her its our their some any no each every another one two three four five
six several many few of old new big small large little red green blue white black yellow brown grey gray orange pink
purple young beautiful top bottom
"""
_BEFORE_NOUNS = frozenset(_BEFORE_NOUNS_TEXT.split())
_AUXILIARY = frozenset(["am", "is", "are", "was", "were", "be", "been", "being", "has", "have", "had", "gets", "got"])
_VERBS_TEXT = """
ask bake balance bark bathe bend bite blow board bounce bow brush build burn buy carry cast catch celebrate chase chew
clap clean climb collect compete cook cover crawl cross crouch cry cut dance dig dine dive do drag draw dress drink
drive drop dry dunk eat embrace enjoy enter examine exercise explore face fall feed fight file fill fish fix float fly
fold follow gather give glide go grab graze greet grill grind hang help herd hike hit hold hop hug hunt hurdle jog
juggle jump kick kiss kneel laugh launch lay lead lean leap learn leave lick lie lift listen load look make march mix
mow open pack paint parade park pass pedal perch perform pet pick plant play plow point pose pour pray prepare push
put race raise reach read rest ride roll row run sail search see sell serve set sew shake shave shoot shop shovel
shout show sing sit skate skateboard ski sled sleep slide smell smile smoke sniff splash spray spread sprint squat
stand stare stir stretch strum study surf surround sweep swim swing take talk taste teach tear throw tie toss touch
travel trim try turn type use visit wade wait walk wash watch water wave wear whisper wipe work wrestle write yell
"""
_VERBS = frozenset(_VERBS_TEXT.split())
_PAST_TEXT = """
ate bent bit blew bought bowed caught cut dove drank drew drove fell fed fought flew gave held hit hung knelt laid led
leapt left lit made put ran rode rose sang sat saw set shook shot slept slid sold spoke spread stood swam swept swung
taught threw took tore went wore wrote
"""
_PAST = frozenset(_PAST_TEXT.split())
_NO_VERBS_TEXT = """
anything building ceiling clothing during earring evening everything king lightning morning nothing painting ring
railing something spring string thing wedding wing wording bedding bowling dressing awning lining icing being pudding
viking sibling darling meeting
"""
_NO_VERBS = frozenset(_NO_VERBS_TEXT.split())

_NO_NOUNS_TEXT = """
all also alone another apart asleep away back blank bright busy calm clear close closed cloudy cold colorful colourful
cute dark dry each empty first five four fresh front full happy her here hot last long many next nice old one open other
others own plain ready same several short small smiling some someone something sunny tall tasty ten there three
together two various very warm wet wide wooden
"""
_NO_NOUNS = frozenset(_NO_NOUNS_TEXT.split())
_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot", "teeth": "tooth",
    "mice": "mouse", "geese": "goose", "leaves": "leaf", "knives": "knife", "wolves": "wolf", "shelves": "shelf",
    "loaves": "loaf", "bus": "bus", "buses": "bus",
    "gas": "gas", "glasses": "glasses", "scissors": "scissors", "pants": "pants",
    "jeans": "jeans", "shorts": "shorts", "clothes": "clothes", "shoes": "shoe", "movies": "movie", "ties": "tie",
}  # fmt: skip
_PIECE = re.compile(r"[^,.;:!?()\"/]+")


@dataclass(frozen=True)
class Parse:
    """What is said in a caption.

    Attributes
    ----------
    relations : int
        Relations between things, actions among them.
    actions : int
        Verbs other than auxiliaries.

    Examples
    --------
    >>> parse("a man riding a horse on the beach"), parse("red leather handbag")
    (Parse(relations=2, actions=1), Parse(relations=0, actions=0))
    """

    relations: int
    actions: int


def parse(caption: str) -> Parse:
    """The relations and actions of an English caption.

    Examples
    --------
    >>> parse("Two dogs run through the snow.")
    Parse(relations=2, actions=1)
    """
    words = [word.lower() for word in _WORD.findall(caption)]
    relations = actions = 0
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        if _is_action(word, before, words[place + 1 : place + 2]):
            actions += 1
        elif word in _RELATIONS and 0 < place < len(words) - 1:
            relations += 1
    return Parse(relations + actions, actions)


def nouns(caption: str) -> list[str]:
    """The things that an English caption names, in the singular: the last word of each run of words that are neither
    function words, relations nor verbs, where it is no adjective of a short list.

    Of compounds ("tennis player") the last word counts. Roughly right is all that labels by frequency need.

    Examples
    --------
    >>> nouns("Two men riding brown horses on the beach, the sky is blue.")
    ['man', 'horse', 'beach', 'sky']
    """
    things: list[str] = []
    for piece in _PIECE.findall(caption):
        words = [word.lower() for word in _WORD.findall(piece)]
        run = ""
        for place, word in enumerate(words):
            before = words[place - 1] if place else ""
            ends = (
                word in FUNCTION_WORDS or word in _RELATIONS or _is_action(word, before, words[place + 1 : place + 2])
            )
            if ends:
                things += _thing(run)
            run = "" if ends else word
        things += _thing(run)
    return list(dict.fromkeys(things))


def _thing(word: str) -> list[str]:
    """The word in the singular, where it may name a thing."""
    if len(word) < 3 or word in _NO_NOUNS or word in _BEFORE_NOUNS or word in _AUXILIARY or word.endswith("ly"):
        return []
    if word in _IRREGULAR:
        return [_IRREGULAR[word]]
    if word.endswith("ies") and len(word) > 4:
        return [f"{word[:-3]}y"]
    if word.endswith(("sses", "xes", "zes", "ches", "shes")):
        return [word[:-2]]
    return [word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word]


def _is_action(word: str, before: str, after: list[str]) -> bool:
    """Whether a word is a verb that says what happens."""
    if word in _NO_VERBS or word in _AUXILIARY or before in _BEFORE_NOUNS:
        return False
    if word in _PAST:
        return True
    if word.endswith("ing") and len(word) > 4:
        return not (after == [] and before == "")
    return bool(before) and _is_form(word)  # the first word of a caption hardly says what someone does


def _is_form(word: str) -> bool:
    """Whether a word is a form of one of the verbs: catch, catches, grabbed, tied."""
    for ending in ("", "s", "es", "d", "ed"):
        stem = word.removesuffix(ending)
        if ending and stem == word:
            continue
        bases = [stem]
        if stem[-2:-1] == stem[-1:]:
            bases.append(stem[:-1])
        if stem[-1:] == "i":
            bases.append(f"{stem[:-1]}y")
        if not _VERBS.isdisjoint(bases):
            return True
    return False
