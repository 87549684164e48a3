"""Characters that no text may hold."""

from __future__ import annotations

from embedkit.data.schema.rows import BadRow


def check_characters(text: str) -> None:
    """None for a sound text; raises `BadRow` for NUL or a lone surrogate, which no tokenizer can take.

    Examples
    --------
    >>> check_characters("fine")
    >>> check_characters("a" + chr(0))
    Traceback (most recent call last):
    ...
    embedkit.data.schema.rows.BadRow: NUL character at character 1; remove it
    """
    if "\0" in text:
        raise BadRow("NUL byte", f"NUL character at character {text.index(chr(0))}", remedy="remove it")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise BadRow(
                "lone surrogate",
                f"lone surrogate U+{code:04X} at character {error.start}",
                remedy="write the file again with whole characters",
            ) from error
