"""Tokenizers by file, folder, hub id or name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedkit.formats.detect import locate


def open_tokenizer(name: str) -> Any:
    """A tokenizer from a vocab.txt (BERT, lower case), a tokenizer.json or its folder, a hub id, 'builtin', 'clip'.

    Examples
    --------
    >>> _ = Path("vocab.txt").write_text("\\n".join(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing"]))
    >>> open_tokenizer("vocab.txt").tokenize("Playing")
    ['play', '##ing']
    """
    if name == "clip":
        from embedkit.models.modules.clip_text import clip_tokenizer

        return clip_tokenizer()
    if name in ("builtin", "builtin-shapes"):
        from embedkit.data.builtin.sentences import tokenizer

        return tokenizer(shapes=name == "builtin-shapes")
    path = Path(name).expanduser()
    vocabulary = path / "vocab.txt" if path.is_dir() and not (path / "tokenizer.json").is_file() else path
    if vocabulary.name.endswith("vocab.txt") and vocabulary.is_file():
        from transformers import BertTokenizer

        pieces = vocabulary.read_text(encoding="utf-8").split("\n")
        table = {piece: number for number, piece in enumerate(pieces) if piece or number < len(pieces) - 1}
        return BertTokenizer(vocab=table, do_lower_case=True, model_max_length=512)
    if path.is_file() and path.suffix == ".json":
        return open_tokenizer(str(path.parent))
    from embedkit.formats.transformers.tokenizer import read_tokenizer

    return read_tokenizer(locate(name))
