"""Tokenizers of transformers folders, and whether they fit their encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedkit.errors import ModelError
from embedkit.formats.folder import FolderPlan


def read_tokenizer(folder: Path, trust_remote_code: bool = False, lower_case: bool = False) -> Any:
    """The tokenizer of a folder; `lower_case` puts a step in front that lower-cases the text, as sentence-transformers
    does for folders that ask for it.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> _ = tokenizer().save_pretrained("words")
    >>> read_tokenizer(Path("words"), lower_case=True).tokenize("A RED lamp")
    ['a', 'red', 'lamp']
    """
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"the tokenizer cannot be read ({reason})", where=str(folder)) from error
    if lower_case:
        core = getattr(tokenizer, "backend_tokenizer", None)
        if core is None:
            raise ModelError("do_lower_case needs tokenizer.json", where=str(folder), remedy="save a fast tokenizer")
        steps = [normalizers.Lowercase(), *([core.normalizer] if core.normalizer is not None else [])]
        core.normalizer = normalizers.Sequence(steps)
    return tokenizer


def check_vocabulary(plan: FolderPlan, encoder: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer that gives ids for which the encoder has no vector; special tokens that the tokenizer's class
    adds by itself, and no text contains, are a note.

    Raises
    ------
    ModelError
        With both numbers.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("quickstart").model)
    >>> _ = model.encoder.resize_token_embeddings(100)
    >>> check_vocabulary(FolderPlan(Path("encoder"), Path("encoder"), "text"), model.encoder, model.tokenizer)
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: encoder: the tokenizer has ids up to 470 (...), the encoder vectors for 100 tokens; ...
    """
    rows = encoder.get_input_embeddings().weight.shape[0]
    beyond = sorted((place, word) for word, place in tokenizer.get_vocab().items() if place >= rows)
    if not beyond:
        return
    special = set(tokenizer.all_special_tokens)
    words = [word for _, word in beyond if word not in special]
    what = f"the tokenizer has ids up to {beyond[-1][0]} ({(words or [beyond[-1][1]])[0]!r})"
    if words:
        raise ModelError(
            f"{what}, the encoder vectors for {rows} tokens", where=str(plan.root),
            remedy="use the model's own tokenizer, or resize_token_embeddings and save both",
        )  # fmt: skip
    plan.notes.append(f"{what}, a special token without a vector: a text that spells it out cannot be encoded")


def fit_length(plan: FolderPlan, encoder: Any, tokenizer: Any) -> None:
    """Raise the tokenizer's length to that of the folder; a length beyond the position table is lowered with a note.

    A length that the user gave instead is left as it is, and refused by the model where it is too long.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("quickstart").model)
    >>> plan = FolderPlan(Path("encoder"), Path("encoder"), "text", spec={"max_length": 512})
    >>> plan.close()
    >>> fit_length(plan, model.encoder, model.tokenizer)
    >>> plan.spec["max_length"], plan.notes
    (64, ['max_length is 64: the folder says 512, its encoder has no more positions'])
    """
    from embedkit.models.modules.text import position_limit

    length = plan.spec.get("max_length")
    if length is None or length != plan.own_length:
        return
    if tokenizer.model_max_length < length:
        tokenizer.model_max_length = length
    prompt = (plan.spec.get("soft_prompt") or {}).get("length", 0)
    limit = position_limit(encoder, prompt)
    if limit is not None and length > limit:
        plan.notes.append(f"max_length is {limit}: the folder says {length}, its encoder has no more positions")
        plan.spec["max_length"] = limit
