"""Tokenizers from a user's own texts: WordPiece or byte-level BPE, as a folder that transformers reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from embedkit.errors import DataError, UserError, nearest

KINDS = ("wordpiece", "bpe")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Special tokens with the ids 0 to 4."""
_COLUMNS = ("text", "sentence", "anchor")


def train_tokenizer(
    texts: Iterable[str], size: int = 30_000, kind: str = "wordpiece", *, lower_case: bool = True,
    min_count: int = 2,
) -> Any:  # fmt: skip
    """A new tokenizer of transformers with at most `size` entries; single texts become ``[CLS] text [SEP]``.

    Parameters
    ----------
    texts : iterable of str
        Held in memory.
    size : int
        Entries at most, special tokens included.
    kind : str
        "wordpiece" (Devlin et al. 2019): words and signs are cut apart first. "bpe": bytes are merged, spaces among
        them, so that no text has an unknown token.
    lower_case : bool
        Make texts lower case, and take accents off where the kind is wordpiece.
    min_count : int
        Times that a piece must stand in the texts.

    Raises
    ------
    UserError
        An unknown kind, or a size that has no room for the characters.
    DataError
        There is no text.

    Examples
    --------
    >>> tokenizer = train_tokenizer(["a red lamp", "a red house", "the lamp"], size=40)
    >>> tokenizer.tokenize("A red lamp"), tokenizer("lamp").input_ids[0] == tokenizer.cls_token_id
    (['a', 'red', 'lamp'], True)
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if kind not in KINDS:
        raise UserError(f"unknown kind {kind!r}", where="kind", remedy=nearest(kind, KINDS))
    if size <= len(SPECIAL):
        raise UserError(f"size is {size}", where="size", remedy=f"give more than {len(SPECIAL)}")
    common: dict[str, Any] = {
        "vocab_size": size, "min_frequency": min_count, "special_tokens": list(SPECIAL), "show_progress": False,
    }  # fmt: skip
    if kind == "wordpiece":
        core = _wordpiece({}, lower_case)
    else:
        core = Tokenizer(models.BPE())
        core.normalizer = normalizers.Lowercase() if lower_case else None
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common)
    rows = list(texts)
    if not rows:
        raise DataError("there is no text", where="texts", remedy="give at least one")
    if kind == "wordpiece":
        trainer = trainers.WordPieceTrainer(**{**common, "special_tokens": [*SPECIAL, *_characters(core, rows)]})
    core.train_from_iterator(rows, trainer)
    if kind == "wordpiece":
        core = _wordpiece(core.get_vocab(), lower_case)
    if core.get_vocab_size() > size:
        raise UserError(f"size is {size}, and the texts have {core.get_vocab_size() - len(SPECIAL)} characters",
                        where="size", remedy=f"give more than {core.get_vocab_size()}")  # fmt: skip
    ends = [(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=core, **dict(zip(names, SPECIAL, strict=True)))


def _wordpiece(vocabulary: dict[str, int], lower_case: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    core = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    return core


def _characters(core: Any, texts: Sequence[str]) -> list[str]:
    """The characters of texts as pieces, at the start of words and inside them.

    The trainer gives the second kind numbers in the order of a hash table, and breaks ties by these: without a fixed
    order the same texts give another vocabulary each time.
    """
    pieces: set[str] = set()
    for text in texts:
        for word, _ in core.pre_tokenizer.pre_tokenize_str(core.normalizer.normalize_str(text)):
            pieces.update((word[0], *(f"##{character}" for character in word[1:])))
    return sorted(pieces)


def texts_of(source: str | Path, column: str | None = None) -> Iterator[str]:
    """The texts of a file of any format, of a column or the first of text, sentence, anchor, or the only one.

    Raises
    ------
    DataError
        A row has no such column, or no text in it.

    Examples
    --------
    >>> _ = Path("words.txt").write_text("a lamp\\na house\\n")
    >>> list(texts_of("words.txt"))
    ['a lamp', 'a house']
    """
    from embedkit.data import read_rows

    for number, row in enumerate(read_rows(str(source)), 1):
        name = column or next((one for one in _COLUMNS if one in row), next(iter(row)) if len(row) == 1 else None)
        where = f"{source}: row {number}"
        if name is None or name not in row:
            what = f"no column {name!r}" if name else "which column holds the texts?"
            raise DataError(what, where=where, remedy=f"name one: --column of {', '.join(row)}")
        if not isinstance(row[name], str):
            raise DataError(f"cell of {name!r} is no text", where=where, remedy="fix or remove the row")
        yield row[name]


def save_tokenizer(tokenizer: Any, folder: str | Path, *, overwrite: bool = False) -> Path:
    """The folder that a tokenizer was written to, for ``model.tokenizer`` of a recipe and for transformers.

    Examples
    --------
    >>> folder = save_tokenizer(train_tokenizer(["a red lamp"] * 2, size=30), "pieces")
    >>> sorted(path.name for path in folder.iterdir())
    ['tokenizer.json', 'tokenizer_config.json']
    """
    from embedkit.formats.folder import write_folder
    from embedkit.formats.tensors import write_tokenizer

    def write(place: Path) -> None:
        write_tokenizer(tokenizer, place)

    return write_folder(folder, write, ours="tokenizer.json", overwrite=overwrite)
