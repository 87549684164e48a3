"""Views that need something besides the text: a file of back-translations, a table of synonyms, a masked LM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from embedkit.config.settings import Count, File, Share
from embedkit.errors import DataError, RecipeError
from embedkit.views import words
from embedkit.views.base import Step, views
from embedkit.views.text import on_words


@views.add("back-translation")
def back_translation(
    path: File, text: str = "text", translation: str = "translation", missing: Literal["error", "keep"] = "error"
) -> Step:
    """Replace a text by one of its back-translations, from a file in any format of the data sources.

    The file has the columns `text` and `translation`; a text may stand in several rows, and one is drawn. White space
    is collapsed before texts are compared. A text without a row is refused, or kept with ``missing: keep``.

    Parameters
    ----------
    path : str
        File of the back-translations.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.views import Chain
    >>> _ = Path("back.csv").write_text("text,translation\\na red car,a car that is red\\n")
    >>> chain = Chain.of({"name": "back-translation", "path": "back.csv"})
    >>> chain.texts("a red car", np.random.default_rng(0))
    ['a car that is red']
    """
    table = _read_table(path, text, translation)

    def run(original: str, random: np.random.Generator) -> str:
        translations = table.get(" ".join(original.split()))
        if translations:
            return translations[int(random.integers(len(translations)))]
        if missing == "keep":
            return original
        raise DataError(
            f"no back-translation of {original[:60]!r}", where=path, remedy="add it, or set missing: keep on the view"
        )

    return Step(edit=run)


@lru_cache(maxsize=8)
def _read_table(path: str, key: str, value: str) -> dict[str, list[str]]:
    """The cells of one column by those of another, white space collapsed, in the order of the file."""
    from embedkit.data import read_rows
    from embedkit.data.schema.parsers import is_blank, show

    table: dict[str, list[str]] = {}
    for number, row in enumerate(read_rows(path, columns=[key, value]), 1):
        for name in (key, value):
            if not isinstance(row[name], str) or is_blank(row[name]):
                raise DataError(
                    f"expected text, found {show(row[name])}", where=f"{path}: row {number}, column {name!r}",
                    remedy="fix or remove the row",
                )  # fmt: skip
        table.setdefault(" ".join(row[key].split()), []).append(row[value])
    return table


@views.add("substitution")
def substitution(
    rate: Share = 0.3, model: File | None = None, table: File | None = None, top: Count = 5, word: str = "word",
    substitute: str = "substitute",
) -> Step:  # fmt: skip
    """Replace each word with probability `rate` by a substitute, from a masked language model or from a table.

    With a `model` (folder or id) all words that are drawn are masked together, and each place is filled with one of the
    `top` likeliest whole words other than the word itself. With a `table` (a file with the columns `word` and
    `substitute`) one of the substitutes is drawn; words that are not in the table stay.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.views import Chain
    >>> _ = Path("synonyms.csv").write_text("word,substitute\\ncar,automobile\\nsmall,little\\n")
    >>> chain = Chain.of({"name": "substitution", "table": "synonyms.csv", "rate": 1.0})
    >>> chain.texts("a small red car", np.random.default_rng(0))
    ['a little red automobile']
    """
    if (model is None) == (table is None):
        raise RecipeError("give either model or table", where="view substitution", remedy="remove or add one")
    if model is not None:
        candidates: words.Candidates = MaskedLM(model, top)
    else:
        synonyms = _read_table(str(table), word, substitute)

        def candidates(items: Sequence[str], places: Sequence[int]) -> list[list[str]]:
            return [synonyms.get(items[place], []) for place in places]

    return on_words(lambda items, random: words.substitute(items, random, rate=rate, candidates=candidates))


class MaskedLM:
    """The words that a masked language model predicts at given places of a sentence.

    Parameters
    ----------
    name : str
        Folder or hub id; it is read at first use, runs on the CPU and draws nothing: the candidates of a sentence are
        always the same.
    top : int
        Candidates per place.

    Only whole words are candidates: word pieces, special tokens and punctuation are left out.

    Examples
    --------
    >>> from transformers import BertConfig, BertForMaskedLM
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> words = tokenizer()
    >>> config = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> BertForMaskedLM(config).save_pretrained("mlm")
    >>> _ = words.save_pretrained("mlm")
    >>> (candidates,) = MaskedLM("mlm", top=3)(["the", "small", "dog", "sleeps"], [1])
    >>> len(candidates), "small" in candidates
    (3, False)
    """

    def __init__(self, name: str, top: int = 5) -> None:
        self.name, self.top = name, top
        self._lock = Lock()
        self._parts: tuple[Any, Any, Any] | None = None

    def _read(self) -> tuple[Any, Any, Any]:
        """Tokenizer, model, and which vocabulary entries are whole words (V,)."""
        with self._lock:
            if self._parts is None:
                import torch
                from transformers import AutoModelForMaskedLM

                from embedkit.formats.detect import inspect, locate
                from embedkit.formats.tensors import reading
                from embedkit.formats.transformers.tokenizer import read_tokenizer

                folder: Path = inspect(locate(self.name)).weights
                tokenizer = read_tokenizer(folder)
                with reading(folder):
                    model = AutoModelForMaskedLM.from_pretrained(
                        folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32,
                        use_safetensors=True, weights_only=True,
                    )  # fmt: skip
                self._parts = (tokenizer, model.eval().requires_grad_(False), whole_words(tokenizer))
            return self._parts

    def __call__(self, items: Sequence[str], places: Sequence[int]) -> list[list[str]]:
        """Candidates for each place, likeliest first."""
        import torch

        tokenizer, model, whole = self._read()
        hidden = set(places)
        text = " ".join(tokenizer.mask_token if i in hidden else item for i, item in enumerate(items))
        limit = model.config.max_position_embeddings - 2
        ids = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")["input_ids"]
        at = (ids[0] == tokenizer.mask_token_id).nonzero()[:, 0]
        logits = model(input_ids=ids).logits[0, at]  # (places, V); V may be larger than the vocabulary
        valid = torch.zeros(logits.shape[1], dtype=torch.bool)
        valid[: len(whole)] = torch.from_numpy(whole)
        logits = logits.masked_fill(~valid, -torch.inf)
        best = logits.topk(min(self.top + 1, int(whole.sum())), dim=1).indices.tolist()
        decodings = [[tokenizer.decode([token]).strip() for token in row] for row in best]
        own = [items[place].lower() for place in places]
        candidates = [
            [w for w in row if w.lower() != mine][: self.top] for row, mine in zip(decodings, own, strict=False)
        ]
        return candidates + [[] for _ in places[len(candidates) :]]  # places that were cut off have no candidate


def whole_words(tokenizer: Any) -> np.ndarray:
    """Which entries of a vocabulary are whole words, bool (V,).

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> words = tokenizer()
    >>> whole = whole_words(words)
    >>> whole[words.convert_tokens_to_ids(["dog", "[MASK]"])]
    array([ True, False])
    """
    table = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    mark = next((m for m in ("Ġ", "▁") if sum(piece.startswith(m) for piece in table) > len(table) // 10), "")
    whole = np.zeros(max(table.values()) + 1, dtype=bool)
    for piece, number in table.items():
        whole[number] = piece not in special and piece.startswith(mark) and piece[len(mark) :].isalpha()
    return whole
