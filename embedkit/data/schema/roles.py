"""Columns to roles: which column is the anchor, which the positive; checked against what the method reads.

Roles are bound by name, never by position. A mapping in the recipe always counts; without one a column takes a role
when its name is the role's or a well-known alias (`ALIASES`), and only a role that the method or the sampler reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from embedkit.data.images.pictures import TEXT_ENDINGS, is_image
from embedkit.data.schema.kinds import is_named
from embedkit.data.schema.targets import target_name
from embedkit.errors import DataError, nearest

IMAGE_NAMES = ("image", "img", "file_name", "filename", "image_path", "filepath", "image_name")
"""Names of columns that hold images or their paths, the likeliest first."""

ALIASES: Mapping[str, Sequence[str]] = {
    "anchor": (
        "text", "sentence", "sent0", "sentence1", "sentence_1", "sentence_a", "text1", "premise", "query", "question",
        "question1",
    ),
    "positive": (
        "pos", "positive_passages", "sent1", "sentence2", "sentence_2", "sentence_b", "text2", "hypothesis",
        "entailment", "answer", "passage", "document", "question2", "positive_ctxs",
    ),
    "negatives": ("negs", "hard_negatives", "negative_passages", "hard_negative_ctxs"),
    "negative_1": ("negative", "neg", "hard_neg", "hard_negative", "contradiction"),
    "score": ("similarity", "similarity_score"),
    "scores": ("teacher_scores",),
    "scores_of_positives": ("pos_scores",),
    "scores_of_negatives": ("neg_scores",),
    "label": ("labels", "is_duplicate"),
    "group": (),
    "image": IMAGE_NAMES[1:],
    "image2": ("img2",),
    "features": ("image_features",),
    "texts": ("captions",),
    "text_1": ("caption",),
    "sentences": ("sents",),
    "document_id": ("doc_id", "docid"),
    "position": ("sentence_index", "sent_id"),
}  # fmt: skip
"""Role -> names of columns that are taken for it when the recipe maps nothing, besides the role's own name; case and
blanks do not matter. A column ``text`` is a caption where the method reads captions and no anchor, and no other column
has captions; ``title`` beside an image is one where there is no other."""

ROLES = (
    "anchor", "positive", "negatives", "score", "scores", "label", "group", "image", "image2", "features", "texts",
    "sentences", "document_id", "position",
)  # fmt: skip
"""Roles of a finished row; columns ``negative_1``, ``negative_2`` ... become entries of ``negatives``, columns
``text_1``, ``text_2`` ... of one caption each become entries of ``texts``."""

INPUT_ROLES = frozenset({"anchor", "positive", "negatives", "image", "image2", "texts", "sentences"})
"""Roles whose values a model reads; the others are targets, which matter to an objective that reads them."""

PARTS = {"positives": "positive", "scores_of_positives": "scores", "scores_of_negatives": "scores", "prompt": "anchor"}
"""What a column can be besides a role -> the role it becomes part of: several positives of one anchor, which make a row
each; a teacher's scores of positives and of negatives; a prompt that stands before the anchor of its row."""

IMAGE_ROLES = ("image", "image2")
"""Roles whose values are images: the bytes of a file, or its path."""

_LISTED = {"positive": "positives", "negative_1": "negatives", "text_1": "texts", "score": "scores"}
"""What a column of lists is in place of what its name says."""

_PLAIN = frozenset({"caption", "captions", "labels", "similarity", "similarity_score"})
"""Names that cannot mean anything else, so that nothing is guessed."""

_SEPARATORS = {"\t": "a tab", ";": "';'", ",": "','", "|": "'|'"}
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_SLOTS = {"negatives": re.compile(r"negative_(\d{1,4})"), "texts": re.compile(r"text_(\d{1,4})")}
_NUMBERED_ALIASES = {
    "negative": re.compile(r"(?:neg|hard_neg|hard_negative)_(\d{1,4})"),
    "text": re.compile(r"caption_?(\d{1,4})"),
}


@dataclass(frozen=True)
class Binding:
    """The column of each role in one source.

    Attributes
    ----------
    columns : dict
        Role (``negative_1`` and so on kept apart) -> column.
    notes : tuple of str
        Columns that look like a role which nothing reads; shown to the user.
    guesses : tuple of str
        What was taken from names that are not those of roles.
    documents : str or None
        "lists" where a list of sentences becomes a row a sentence, "rows" where rows are put together to documents.

    Examples
    --------
    >>> Binding({"negative_1": "neg"}, roles=frozenset({"negatives"})).columns["negative_1"]
    'neg'
    """

    columns: dict[str, str]
    notes: tuple[str, ...] = ()
    roles: frozenset[str] = field(default=frozenset())
    guesses: tuple[str, ...] = ()
    documents: str | None = None


def bind(
    names: Sequence[str],
    mapping: Mapping[str, str] | None,
    *,
    requires: frozenset[str],
    reads: frozenset[str],
    where: str,
    explode: bool = False,
    lists: frozenset[str] = frozenset(),
    extras: frozenset[str] = frozenset(),
    split: bool = False,
    filters: Set[str] = frozenset(),
) -> Binding:
    """The columns of a source bound to roles, checked against what is read.

    Parameters
    ----------
    names : sequence of str
        The columns that the source has.
    mapping : mapping, optional
        The recipe's column -> role; guessed from names when None.
    requires, reads : frozenset of str
        Roles that the method needs, and all that method and sampler read.
    where : str
        How messages call the source.
    explode : bool
        The role ``texts`` will become pairs: ``anchor``, ``positive`` and ``group``.
    lists : frozenset of str
        Columns whose cells are lists.
    extras : frozenset of str
        Roles whose columns the user did not give: no note is made where nothing reads them.
    split : bool
        A column of texts holds documents, which will be cut into sentences.
    filters : set of str
        Columns by which rows are chosen: they are used, and no note is made.

    Raises
    ------
    DataError
        A mapped column is absent, a role is unknown, given twice or read by nobody, or a required role is missing.

    Examples
    --------
    >>> bound = bind(["question", "answer"], None, requires=frozenset({"anchor"}),
    ...              reads=frozenset({"anchor", "positive"}), where="faq.csv")
    >>> bound.columns
    {'anchor': 'question', 'positive': 'answer'}
    >>> bound.guesses
    ('question is the anchor, answer is the positive',)
    """
    targets = (reads | {"texts"} if explode else reads) | document_roles(reads)
    if mapping is None:
        columns, notes = _Guessing(names, requires, targets, where, lists, extras).columns()
        notes = [note for note in notes if not any(f"column {name!r} is not used" in note for name in filters)]
    else:
        columns, notes = _mapped(names, mapping, targets, where, lists), []
    if split and mapping is None and "sentences" in targets and "sentences" not in columns and "anchor" in columns:
        columns["sentences"] = columns.pop("anchor")
    documents = _documents(columns, reads, split, lists, where, mapping is not None)
    roles = {_role_of(slot) for slot in columns}
    if documents is not None and explode:
        raise DataError("'explode' makes pairs, and documents are read", where=where, remedy="leave it out")
    if documents is not None:
        new = SENTENCE_ROLES if documents == "lists" else frozenset({"sentences"})
        roles = (roles - SENTENCE_ROLES - {"sentences"}) | new
    if explode:
        if "texts" not in roles:
            raise DataError("'explode' needs a column with role texts", where=where, remedy=_advice(names, ["texts"]))
        clash = roles & {"anchor", "positive"}
        if clash:
            raise DataError(
                f"'explode' makes anchor and positive, but a column is bound to {sorted(clash)[0]}",
                where=where,
                remedy="map only the column of texts with 'columns'",
            )
        roles = roles - {"texts"} | {"anchor", "positive", "group"}
    if "positives" in columns:
        roles |= {"group"}
    if "document_id" in roles:
        roles |= {"position"}  # without a column it is counted
    missing = sorted(requires - roles - ({"score"} if "scores" in roles else set()))
    if missing:
        role_names = " and ".join(repr(role) for role in missing)
        raise DataError(
            f"no column for role {role_names}, which the method needs",
            where=where,
            remedy=_advice(names, missing, lists),
        )
    aliases = [f"{column} is the {slot}" for slot, column in columns.items() if not _is_plain(column, slot)]
    guesses = (", ".join(aliases),) if aliases and mapping is None else ()
    return Binding(columns, tuple(notes), frozenset(roles), guesses, documents)


SENTENCE_ROLES = frozenset({"anchor", "document_id", "position"})
"""Roles of a row that is one sentence of a document."""


def document_roles(reads: frozenset[str]) -> frozenset[str]:
    """The roles that a source of documents may have instead of those that are read: one form is made of the other.

    Examples
    --------
    >>> sorted(document_roles(frozenset({"sentences"}))), sorted(document_roles(frozenset({"anchor", "document_id"})))
    (['anchor', 'document_id', 'position'], ['sentences'])
    """
    if "sentences" in reads:
        return SENTENCE_ROLES
    return frozenset({"sentences"}) if "document_id" in reads else frozenset()


def _documents(
    columns: dict[str, str], reads: frozenset[str], split: bool, lists: frozenset[str], where: str, mapped: bool
) -> str | None:
    """How documents are made of the columns; what this leaves no use for is taken out, or refused where mapped."""
    column = columns.get("sentences")
    if split and (column is None or column in lists):
        why = "nothing reads a column of documents" if column is None else f"column {column!r} holds lists already"
        raise DataError(f"'split_sentences' has no effect: {why}", where=where, remedy="leave it out")
    if "sentences" in reads:
        if column is None and {"anchor", "document_id"} <= columns.keys():
            return "rows"
        unread = SENTENCE_ROLES - reads
    elif column is not None:
        unread = SENTENCE_ROLES
    else:
        return None
    for slot in sorted(unread & columns.keys()):
        if mapped:
            what = f"column {columns[slot]!r} is mapped to {slot}, which the documents of column {column!r} give"
            raise DataError(what, where=where, remedy="map one of the two")
        del columns[slot]
    return None if "sentences" in reads else "lists"


def _is_plain(column: str, slot: str) -> bool:
    """Whether a column's name is the role's own word."""
    name = normal_name(column)
    return name in (slot, target_name(slot)) or name in _PLAIN or slot == f"{name}_1" or slot == f"{name}s"


def _role_of(slot: str) -> str:
    return PARTS.get(slot) or next((role for role, pattern in _SLOTS.items() if pattern.fullmatch(slot)), slot)


def _mapped(
    names: Sequence[str], mapping: Mapping[str, str], targets: frozenset[str], where: str, lists: frozenset[str]
) -> dict[str, str]:
    columns: dict[str, str] = {}
    for column, target in mapping.items():
        if column not in names:
            raise DataError(f"there is no column {column!r}", where=where, remedy=nearest(column, names))
        for slot in _slots_of(target, column, lists, targets):
            role = _role_of(slot)
            if role not in ROLES and not is_named(role):
                terms = (*ROLES, *PARTS, *(target_name(role) for role in targets if is_named(role)))
                place = f"{where} column {column!r}"
                raise DataError(f"{slot!r} is not a role", where=place, remedy=nearest(slot, terms))
            if slot in columns:
                raise DataError(
                    f"columns {columns[slot]!r} and {column!r} are both mapped to {slot}",
                    where=where,
                    remedy="keep one of them (several negatives: negative_1, negative_2, ...; captions: text_1, ...)",
                )
            if role not in targets:
                raise DataError(
                    f"column {column!r} is mapped to role {role}, which neither the method nor the sampler reads",
                    where=where,
                    remedy=f"leave it out of 'columns'; read here: {', '.join(sorted(targets))}",
                )
            columns[slot] = column
    return columns


def _slots_of(target: str, column: str, lists: frozenset[str], targets: frozenset[str]) -> list[str]:
    """What a column is mapped to: targets of heads with that name, and the role of that name where it is read."""
    of_heads = sorted(role for role in targets if is_named(role) and target_name(role) == target)
    slot = _slot(target, column, lists, targets)
    return [*of_heads, slot] if not of_heads or _role_of(slot) in targets else of_heads


def _slot(slot: str, column: str, lists: frozenset[str], targets: frozenset[str]) -> str:
    """What a column is by its name or mapping, and by whether it holds lists."""
    list_slot = _LISTED.get(slot, slot) if column in lists else slot
    return list_slot if _role_of(list_slot) in targets else slot


class _Guessing:
    """The roles that names of columns tell, where one reading is possible."""

    def __init__(
        self,
        names: Sequence[str],
        requires: frozenset[str],
        targets: frozenset[str],
        where: str,
        lists: frozenset[str],
        extras: frozenset[str],
    ) -> None:
        self.names, self.requires, self.targets = names, requires, targets
        self.where, self.lists, self.extras = where, lists, extras
        self.captions = bool({"caption", "captions", "texts", "text_1"} & set(map(normal_name, names)))

    def columns(self) -> tuple[dict[str, str], list[str]]:
        """Slot -> column, and notes of columns that nothing reads."""
        columns = self._targets()
        of_targets = set(columns.values())
        notes: list[str] = []
        for slot, candidates in self._candidates().items():
            exact = [column for column in candidates if column == slot]
            if _role_of(slot) not in self.targets:
                if _role_of(slot) in self.extras or of_targets.issuperset(candidates):
                    continue
                unread = f"column {candidates[0]!r} is not used, nothing reads role {_role_of(slot)}"
                if slot == "label" and "positive" in self.targets:  # pairs, which it may tell apart
                    value = 1 if normal_name(candidates[0]) == "is_duplicate" else "VALUE"
                    unread += (
                        f"; map it to score for an objective that reads scores, or keep the rows of one class with "
                        f"where: {{{candidates[0]}: {value}}}, for those of all are trained alike"
                    )
                notes.append(f"{self.where}: {unread}")
            elif len(candidates) == 1 or exact:
                columns[slot] = exact[0] if exact else candidates[0]
            else:
                raise _undecided(slot, candidates, self.where)
        for column in self.names:  # words, and no numbers of classes
            if normal_name(column) == "gold_label" and "positive" in columns:
                notes.append(
                    f"{self.where}: column {column!r} is not used: pairs of every class are trained alike; keep "
                    f"those of one with where: {{{column}: entailment}}"
                )
        if "score" in self.requires and not {"score", "scores"} & set(columns):
            self._label_as_score(columns)
        return columns, notes

    def _targets(self) -> dict[str, str]:
        """Role of a head's target -> the column of its name, or one that is called like the role of that name."""
        columns = {}
        for role in sorted(filter(is_named, self.targets)):
            name = target_name(role)
            exact = [column for column in self.names if column == name]
            like = [column for column in self.names if name in (normal_name(column), named_role(column))]
            if len(exact or like) > 1:
                raise _undecided(name, like, self.where)
            if exact or like:
                columns[role] = (exact or like)[0]
        return columns

    def _candidates(self) -> dict[str, list[str]]:
        """Slot -> the columns whose names tell it."""
        candidates: dict[str, list[str]] = {}
        for column in self.names:
            slot = self._slot(column)
            if slot is not None:
                candidates.setdefault(slot, []).append(column)
        return candidates

    def _slot(self, column: str) -> str | None:
        name = normal_name(column)
        if name == "title":
            caption = "texts" in self.targets and not self.captions and "image" in map(named_role, self.names)
            return "text_1" if caption else None
        if name == "text" and "texts" in self.targets and "anchor" not in self.targets:
            return None if self.captions else _slot("text_1", column, self.lists, self.targets)
        if name == "prompt" and not self._has_lists_of_positives():
            return None
        slot = "prompt" if name == "prompt" else named_role(column)
        return None if slot is None else _slot(slot, column, self.lists, self.targets)

    def _has_lists_of_positives(self) -> bool:
        """Whether the columns are FlagEmbedding's: there a prompt belongs to the query of its row."""
        return any(normal_name(column) in ("pos", "positives") and column in self.lists for column in self.names)

    def _label_as_score(self, columns: dict[str, str]) -> None:
        """Take labels for the scores that are needed, when the method does not need labels."""
        if "label" not in self.requires and "label" in columns:
            columns["score"] = columns.pop("label")


def _undecided(slot: str, candidates: Sequence[str], where: str) -> DataError:
    """The error of several columns for one role; names of files with dots in them are known by their many endings."""
    first = " and ".join(repr(column) for column in candidates[:3])
    more = f" and {len(candidates) - 3} more" if len(candidates) > 3 else ""
    remedy = f"say which with columns: {{{candidates[0]}: {slot}}}"
    if all(is_image(column) for column in candidates):
        remedy += (
            "; where they are parts of files' names (IMG.1.jpg): in a shard all behind the first dot is the ending, as "
            "in webdataset, so write the names without dots"
        )
    return DataError(f"columns {first}{more} all look like {slot}" if more else f"columns {first} both look like "
                     f"{slot}", where=where, remedy=remedy)  # fmt: skip


def normal_name(column: str) -> str:
    """A column's name without case, outer blanks and the kind of gap between words.

    Examples
    --------
    >>> normal_name(" Sentence A"), normal_name("hard-negative")
    ('sentence_a', 'hard_negative')
    """
    return re.sub(r"[\s-]+", "_", column.strip().casefold())


def named_role(column: str) -> str | None:
    """The role that a column's name stands for, ``negative_1`` and so on kept apart; None when it is no such name.

    Examples
    --------
    >>> named_role("Question"), named_role("neg_2"), named_role("05.jpg"), named_role("id")
    ('anchor', 'negative_2', 'image', None)
    """
    name = normal_name(column)
    if name in ROLES or (_role_of(name) != name and name != "prompt"):
        return name
    for slot, pattern in _NUMBERED_ALIASES.items():
        match = pattern.fullmatch(name)
        if match:
            return f"{slot}_{match[1]}"
    if "." in name:  # a file of a sample with a compound ending
        return "image" if is_image(name) else "text_1" if name.rpartition(".")[2] in TEXT_ENDINGS else None
    return next((role for role, names in ALIASES.items() if name in names), None)


_DOCUMENTS = (
    "documents are a column of lists of sentences (role sentences), or rows with the roles anchor, document_id and "
    "position; set 'format: documents' for a text file with blank lines between documents, 'split_sentences: true' "
    "where a cell is a whole text"
)


def _advice(names: Sequence[str], missing: Sequence[str], lists: frozenset[str] = frozenset()) -> str:
    columns = ", ".join(repr(column) for column in list(names)[:20]) or "none"
    if not names:
        return f"the source has no columns to map to {missing[0]}"
    between = next((name for sign, name in _SEPARATORS.items() if sign in names[0]), None)
    if len(names) == 1 and between is not None:
        remedy = "set 'format: tsv'" if between == "a tab" else f"set 'format: csv' and 'separator': {between}"
        return f"the only column is {columns}: where cells are separated by {between}, {remedy}"
    if {"query-id", "corpus-id"} <= set(names):
        return (
            f"the columns are {columns}: judgements of a BEIR folder, which `embedkit eval` scores with the suite "
            "own-retrieval; to be trained on, write rows of query and positive"
        )
    if any(len(name.split()) > 3 or _NUMBER.fullmatch(name.strip()) for name in names):
        example = ", ".join(f"NAME_{place}" for place in range(1, len(names) + 1))
        before = "write the names of the columns before it, or in a recipe header"
        return f"the columns are {columns}: where the first line is a row, {before}: [{example}]"
    slot = {"texts": "text_1"}.get(missing[0], missing[0])
    table = (
        "; set 'format: tsv' or 'format: csv' where the lines are those of a table" if list(names) == ["text"] else ""
    )
    if {"sentences", "document_id"} & set(missing):
        return f"the columns are {columns}: {_DOCUMENTS}"
    label = next((name for name in names if normal_name(name) == "label"), None)
    if missing[0] == "texts" and label is not None:
        return (
            f"the columns are {columns}: class numbers are no captions, add a column with the names of the classes; "
            f"where they are names, map it with columns: {{{label}: text_1}}"
        )
    if {"anchor", "positive"} <= set(missing) and lists:
        column = next(name for name in names if name in lists)
        return f"the columns are {columns}: pairs of a list are made by columns: {{{column}: texts}} and explode: true"
    if missing == ["positive"] and len(names) == 1:
        return f"the only column is {columns}: sentences alone are trained by recipe simcse-unsup{table}"
    if missing == ["positive"] and "label" in map(normal_name, names):
        labelled = "method=views objective=supcon data.sampler=by-label"
        return f"the columns are {columns}: texts with class labels are trained by {labelled}"
    kinds = " (text_1 is one caption, texts a list)" if slot == "text_1" else ""
    slot = target_name(slot) or slot
    if {"anchor", "positive"} <= set(missing) and "image" in map(named_role, names):
        return f"the columns are {columns}: images with captions are trained by recipe clip-small or clip-finetune"
    if len(missing) == len(names) == 2:
        both = f"{{{names[0]}: {missing[0]}, {names[1]}: {missing[1]}}}".replace("texts", "text_1")
        return f"the columns are {columns}: say which is which, columns: {both}, or the other way round"
    return f"the columns are {columns}: map one with columns: {{COLUMN: {slot}}}{kinds}{table}"
