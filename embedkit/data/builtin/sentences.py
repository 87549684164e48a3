"""Data that embedkit makes itself: sentences of a small grammar with graded similarity; no download, no chance.

A *scene* has five slots: actor, action, attribute, object, place. Each slot holds a concept, each concept has three or
four wordings, and a scene is told in one of five sentence patterns with fillers that mean nothing. Two sentences have
similarity 5 x (slots with the same concept) / 5. Where two sentences share a concept they mostly word it
differently, so that common words alone tell little, and a held-out score measures what was learned:

- a combination of actor, action and object belongs to exactly one of train, dev and test;
- training pairs show only neighbouring wordings of a concept (first and second, second and third ...); dev and test
  also pair the others, which can be known only through the one between.

Everything is drawn from SplitMix64 (Steele, Lea and Flood 2014, figure 17), so rows are equal on every machine and
with every version of every library.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from embedkit.data.builtin.series import series_row
from embedkit.data.builtin.vectors import modality_row, place_row, vector_row
from embedkit.data.builtin.words import FILLERS, SLOTS
from embedkit.errors import DataError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Scene = tuple[int, ...]
"""One concept number a slot, in the order of `SLOTS`."""

_MASK = (1 << 64) - 1
_SPLITS = {"train": range(8), "dev": range(8, 9), "test": range(9, 10)}


@dataclass(frozen=True)
class _Set:
    """A named set of rows: what a row looks like, which scenes it may use, how many rows, and its own seed."""

    kind: str
    split: str
    size: int
    seed: int


_SETS = {
    "pairs-train": _Set("pairs", "train", 20_000, 1),
    "triplets-train": _Set("triplets", "train", 20_000, 2),
    "sentences": _Set("sentences", "train", 20_000, 3),
    "graded-train": _Set("graded", "train", 5_000, 4),
    "graded-dev": _Set("graded", "dev", 1_000, 5),
    "graded-test": _Set("graded", "test", 2_000, 6),
    "grounded": _Set("grounded", "train", 5_000, 10),
    "inference-train": _Set("inference", "train", 5_000, 11),
    "rated-train": _Set("rated", "train", 5_000, 12),
    "documents": _Set("documents", "train", 2_000, 13),
    "vectors-train": _Set("vectors", "train", 4_000, 14),
    "places-train": _Set("places", "train", 2_000, 16),
    "series-train": _Set("series", "train", 2_000, 15),
    "modalities-train": _Set("modalities", "train", 4_000, 15),
    "shapes-train": _Set("shapes", "train", 4_000, 7),
    "shapes-dev": _Set("shapes", "dev", 96, 8),
    "shapes-test": _Set("shapes", "test", 96, 9),
    "scenes-train": _Set("scenes", "train", 2_000, 14),
}


_NUMBERS = {"vectors": vector_row, "places": place_row, "series": series_row}
"""Sets of vectors and sequences -> what makes a row of them."""


class _Draws:
    """SplitMix64: a stream of 64-bit numbers from a seed."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def below(self, bound: int) -> int:
        """A number in [0, bound); the bias of the modulo is below bound / 2**64."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return (z ^ (z >> 31)) % bound

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 draws."""
        return self.below(100) < percent


def names() -> list[str]:
    """Names of the built-in data sets, for ``builtin:NAME``.

    Examples
    --------
    >>> [name for name in names() if name.startswith("graded")]
    ['graded-dev', 'graded-test', 'graded-train']
    """
    return sorted(_SETS)


def size(name: str) -> int:
    """Number of rows of a built-in data set; errors as in `rows`.

    Examples
    --------
    >>> size("pairs-train"), size("graded-test")
    (20000, 2000)
    """
    return _set(name).size


def rows(name: str) -> Iterator[dict[str, Any]]:
    """Rows of a built-in data set, always the same ones in the same order.

    Parameters
    ----------
    name : str
        ``pairs-train`` (anchor, positive), ``triplets-train`` (anchor, positive, negatives: one sentence that differs
        in one or two slots), ``sentences`` (anchor), ``grounded`` (anchor, and as features of its picture a 1 for each
        concept of the scene among zeros for all others), ``inference-train`` (anchor, positive, and as label 0 when
        they tell one scene, 1 when they differ in one slot, 2 in three), ``rated-train`` (anchor, positive, three
        negatives of falling similarity, and as scores, from 0 to 1, the share of slots in which each candidate agrees
        with the anchor; score is the positive's), ``documents`` (sentences: 8 to 15 in the order of a story about
        one actor at one place; heading: both of them; level: 0 to 2, which a filler tells), ``vectors-train``
        (anchor, positive, label; see `embedkit.data.builtin.vectors`), ``series-train`` (anchor: a series of steps of
        two numbers, label; see `embedkit.data.builtin.series`), ``places-train`` (image: a vector, place: latitude and
        longitude, label), ``modalities-train`` (caption, image, sound: a
        sentence and two vectors of one scene, of which one in four rows lacks one), ``graded-train``, ``graded-dev``,
        ``graded-test`` (sentence1, sentence2, score from 0 to 5), or ``shapes-train``, ``shapes-dev``, ``shapes-test``
        (image, captions, label, label_name), or ``scenes-train`` (image, captions, nouns, topics, image2, difference);
        see `embedkit.data.builtin.shapes`.

    Raises
    ------
    DataError
        There is no set of that name.

    Examples
    --------
    >>> next(rows("pairs-train"))
    {'anchor': 'in the chapel the medic hauls the grimy mug',
     'positive': 'it is the healer who lugs the grimy cup near the altar'}
    """
    data_set = _set(name)
    draws = _Draws(data_set.seed * 0x1000003D1)
    if data_set.kind in ("shapes", "scenes"):
        return _shapes(draws, data_set)
    if data_set.kind in _NUMBERS:
        row = _NUMBERS[data_set.kind]
        return (row(draws.below) for _ in range(data_set.size))
    if data_set.kind == "modalities":
        scenes = (_grounded(draws, data_set.split) for _ in range(data_set.size))
        return (modality_row(scene["anchor"], scene["features"], draws.below) for scene in scenes)
    make = {
        "pairs": _pair, "triplets": _triplet, "sentences": _single, "graded": _graded, "grounded": _grounded,
        "inference": _inference, "rated": _rated, "documents": _document,
    }[data_set.kind]  # fmt: skip
    return (make(draws, data_set.split) for _ in range(data_set.size))


def tokenizer(shapes: bool = False) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer with exactly the words of the grammar, and letters for all other words.

    With `shapes` it has the words of the captions too. Single sentences become ``[CLS] words [SEP]``, pairs
    ``[CLS] a [SEP] b [SEP]``.

    Examples
    --------
    >>> tokenizer().tokenize("The cook sold oxen")
    ['the', 'cook', 'sold', 'o', '##x', '##e', '##n']
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from embedkit.data.builtin import shapes as builtin_shapes

    more = sorted(builtin_shapes.words() - set(vocabulary())) if shapes else []
    ids = {word: number for number, word in enumerate([*vocabulary(), *more])}
    core = Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


@cache
def vocabulary() -> tuple[str, ...]:
    """Special tokens, letters and digits (alone and inside a word), signs, then the words of the grammar, sorted.

    Examples
    --------
    >>> vocabulary()[:5], len(vocabulary())
    (('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'), 471)
    """
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    base = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *".,;:!?'\"-()"]
    words = {"is", "it", "who", "by", "what", "the", "that", "being"}
    for slot in SLOTS.values():
        words.update(word for concept in slot for wording in concept for word in wording.replace("|", " ").split())
    words.update(word for filler in FILLERS for word in filler.split())
    return (*base, *sorted(words - set(base)))


def _scene_similarity(a: Scene, b: Scene) -> float:
    """Number of slots with the same concept: 0 to 5."""
    return float(sum(x == y for x, y in zip(a, b, strict=True)))


def examples() -> list[str]:
    """Three sentences of the test part: a scene, the same scene in other words, and one with only the same place.

    Examples
    --------
    >>> print(*examples(), sep="\\n")
    at school the odd two wheeler is being eyed by the portraitist
    last week in the classroom the painter observes the peculiar bicycle
    the muddy bun is pushed aside by the thief at school
    """
    draws = _Draws(7 * 0x1000003D1)
    scene = _scene(draws, "test")
    first = _wordings(scene, draws)
    other = _changed(scene, 4, draws, "test", keep=4)
    return [_tell(scene, first, draws), _tell(scene, _reworded(scene, scene, first, draws, "test"), draws),
            _tell(other, _wordings(other, draws), draws)]  # fmt: skip


def _set(name: str) -> _Set:
    if name not in _SETS:
        raise DataError(f"no built-in data set named {name!r}", remedy=nearest(name, _SETS))
    return _SETS[name]


def _pair(draws: _Draws, split: str) -> dict[str, Any]:
    scene = _scene(draws, split)
    first = _wordings(scene, draws)
    second = _reworded(scene, scene, first, draws, split)
    return {"anchor": _tell(scene, first, draws), "positive": _tell(scene, second, draws)}


def _triplet(draws: _Draws, split: str) -> dict[str, Any]:
    scene = _scene(draws, split)
    first = _wordings(scene, draws)
    second = _reworded(scene, scene, first, draws, split)
    near = _changed(scene, 1 + draws.below(2), draws, split)
    third = _reworded(scene, near, first, draws, split)
    return {
        "anchor": _tell(scene, first, draws),
        "positive": _tell(scene, second, draws),
        "negatives": [_tell(near, third, draws)],
    }


def _single(draws: _Draws, split: str) -> dict[str, Any]:
    scene = _scene(draws, split)
    return {"anchor": _tell(scene, _wordings(scene, draws), draws)}


def _grounded(draws: _Draws, split: str) -> dict[str, Any]:
    scene = _scene(draws, split)
    concepts = [float(concept == number) for slot, concept in zip(SLOTS.values(), scene, strict=True)
             for number in range(len(slot))]  # fmt: skip
    return {"anchor": _tell(scene, _wordings(scene, draws), draws), "features": concepts}


def _graded(draws: _Draws, split: str) -> dict[str, Any]:
    scene = _scene(draws, split)
    first = _wordings(scene, draws)
    other = _changed(scene, draws.below(len(SLOTS) + 1), draws, split)
    second = _reworded(scene, other, first, draws, split)
    return {
        "sentence1": _tell(scene, first, draws),
        "sentence2": _tell(other, second, draws),
        "score": _scene_similarity(scene, other),
    }


def _inference(draws: _Draws, split: str) -> dict[str, Any]:
    scene = _scene(draws, split)
    first = _wordings(scene, draws)
    label = draws.below(3)
    other = _changed(scene, (0, 1, 3)[label], draws, split)
    second = _reworded(scene, other, first, draws, split)
    return {"anchor": _tell(scene, first, draws), "positive": _tell(other, second, draws), "label": label}


def _rated(draws: _Draws, split: str) -> dict[str, Any]:
    scene = _scene(draws, split)
    first = _wordings(scene, draws)
    others = [_changed(scene, count, draws, split) for count in (draws.below(2), 2, 3, 4)]
    texts = [_tell(other, _reworded(scene, other, first, draws, split), draws) for other in others]
    scores = [_scene_similarity(scene, other) / len(SLOTS) for other in others]
    return {"anchor": _tell(scene, first, draws), "positive": texts[0], "negatives": texts[1:], "score": scores[0],
            "scores": scores}  # fmt: skip


def _document(draws: _Draws, split: str) -> dict[str, Any]:
    """A story: the next action and the next thing of their lists in each sentence, where the split has the scene."""
    actor, action, attribute, thing, place = _scene(draws, split)
    level, count, step = draws.below(3), 8 + draws.below(8), 0
    sentences: list[str] = []
    actions, things = len(SLOTS["action"]), len(SLOTS["object"])
    while len(sentences) < count:
        scene = actor, (action + step) % actions, attribute, (thing + step // 2) % things, place
        step += 1
        if _belongs(scene, split):
            text = _tell(scene, _wordings(scene, draws), draws)
            sentences.append(f"{FILLERS[level]} {text}" if level and draws.chance(50) else text)
    heading = f"{SLOTS['actor'][actor][0]} {SLOTS['place'][place][0]}"
    return {"sentences": sentences, "heading": heading, "level": level}


def _shapes(draws: _Draws, data_set: _Set) -> Iterator[dict[str, Any]]:
    """Pictures; in dev and test no two have the same features."""
    from embedkit.data.builtin import shapes as builtin_shapes

    earlier: set[Scene] = set()
    remaining = data_set.size
    while remaining:
        shape = builtin_shapes.features(draws.below)
        if _belongs((*shape[:4], 0), data_set.split) and shape not in earlier:
            if data_set.split != "train":
                earlier.add(shape)
            remaining -= 1
            make = builtin_shapes.scene if data_set.kind == "scenes" else builtin_shapes.row
            yield make(shape, draws.below)


def _belongs(scene: Scene, split: str) -> bool:
    """Whether the combination of actor, action and object is one of this split."""
    actor, action, _, thing, _ = scene
    return _Draws((actor * 1009 + action) * 1009 + thing).below(10) in _SPLITS[split]


def _scene(draws: _Draws, split: str) -> Scene:
    while True:
        scene = tuple(draws.below(len(slot)) for slot in SLOTS.values())
        if _belongs(scene, split):
            return scene


def _changed(scene: Scene, count: int, draws: _Draws, split: str, keep: int | None = None) -> Scene:
    """The scene with other concepts in `count` slots (never in slot `keep`), still in its split."""
    sizes = [len(slot) for slot in SLOTS.values()]
    while True:
        free = [slot for slot in range(len(sizes)) if slot != keep]
        concepts = list(scene)
        for _ in range(count):
            slot = free.pop(draws.below(len(free)))
            concepts[slot] = (scene[slot] + 1 + draws.below(sizes[slot] - 1)) % sizes[slot]
        if _belongs(tuple(concepts), split):
            return tuple(concepts)


def _wordings(scene: Scene, draws: _Draws) -> list[int]:
    return [draws.below(len(slot[concept])) for slot, concept in zip(SLOTS.values(), scene, strict=True)]


def _reworded(scene: Scene, other: Scene, first: list[int], draws: _Draws, split: str) -> list[int]:
    """Wordings for `other`, mostly unlike `first` in shared slots; in train only neighbours of the first wording."""
    wordings = []
    for slot, mine, theirs, wording in zip(SLOTS.values(), scene, other, first, strict=True):
        options = list(range(len(slot[theirs])))
        if mine == theirs:
            if split == "train":
                options = [option for option in options if abs(option - wording) <= 1]
            if draws.chance(85):
                options.remove(wording)
        wordings.append(options[draws.below(len(options))])
    return wordings


def _tell(scene: Scene, wordings: list[int], draws: _Draws) -> str:
    """A sentence that says the scene."""
    actor, action, attribute, thing, place = (
        slot[concept][wording] for slot, concept, wording in zip(SLOTS.values(), scene, wordings, strict=True)
    )
    active, passive = action.split("|")
    what = f"the {attribute} {thing}"
    pattern = draws.below(5)
    sentence = [
        f"the {actor} {active} {what} {place}",
        f"{place} the {actor} {active} {what}",
        f"{what} is {passive} by the {actor} {place}",
        f"it is the {actor} who {active} {what} {place}",
        f"{place} {what} is being {passive} by the {actor}",
    ][pattern]
    if draws.chance(40):
        sentence = f"{FILLERS[draws.below(len(FILLERS))]} {sentence}"
    return sentence
