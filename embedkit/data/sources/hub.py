"""Data sets of the hub, and local folders laid out like one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from embedkit.data.schema.rows import Part, Record
from embedkit.data.sources.formats.arrow import decoded, is_json
from embedkit.data.sources.remote import first_line
from embedkit.data.sources.splits import choose_split
from embedkit.errors import DataError

_LARGEST_CARD = 1_000_000  # bytes


def hub_part(
    path: str,
    name: str | None,
    split: str | None,
    revision: str | None,
    prefer: str | None,
    guess: Callable[[str, str], None],
) -> Part:
    """The part that streams a hub data set, or a local folder laid out like one, through ``datasets``.

    Raises
    ------
    DataError
        The data set cannot be found or read, or `split` is needed or unknown.

    Examples
    --------
    >>> Path("faq").mkdir()
    >>> _ = Path("faq/train.csv").write_text("question,answer\\nHow do I pay?,By card.\\n")
    >>> part = hub_part("faq", None, "train", None, None, print)
    >>> list(part.records())
    [(1, {'question': 'How do I pay?', 'answer': 'By card.'})]
    """

    def records() -> Iterator[Record]:
        import datasets

        remedy = "check the id, the revision and the network, or give the path of a local file"
        check_card(Path(path))
        try:
            with hub_client_quiet():
                splits = datasets.load_dataset(path, name=name, revision=revision, streaming=True)
                names = list(splits)
        except Exception as error:  # the hub client raises errors of several libraries
            raise DataError(f"cannot be loaded ({first_line(error)})", where=path, remedy=remedy) from error
        rows = splits[choose_split(names, split, path, prefer, guess)]
        json_columns = [name for name, feature in (rows.features or {}).items() if is_json(feature)]
        if rows.features:
            rows = rows.decode(False)  # images stay bytes
        try:
            for number, row in enumerate(rows, 1):
                yield number, decoded(dict(row), json_columns)
        except Exception as error:
            raise DataError(f"cannot be read ({first_line(error)})", where=path, remedy=remedy) from error

    return Part(path, records, Path(path) if Path(path).is_dir() else None)


@contextmanager
def hub_client_quiet() -> Iterator[None]:
    """A block without the hub client's own lines on each attempt to connect; what ends in an error is told by ours.

    Examples
    --------
    >>> with hub_client_quiet():
    ...     logging.getLogger("huggingface_hub").isEnabledFor(logging.WARNING)
    False
    """
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def check_card(folder: Path) -> None:
    """Refuse a local copy of a hub data set whose card has its files fetched from elsewhere.

    Raises
    ------
    DataError
        A ``data_files`` or ``data_dir`` of its README.md is an address, or leads out of the folder.

    Examples
    --------
    >>> Path("copy").mkdir()
    >>> _ = Path("copy/README.md").write_text("---\\ndata_files: ../secret.csv\\n---\\n")
    >>> check_card(Path("copy"))
    Traceback (most recent call last):
    embedkit.errors.DataError: copy/README.md: data_files names files elsewhere ('../secret.csv'); ...
    """
    card = folder / "README.md"
    if not card.is_file():
        return
    text = card.read_bytes()[:_LARGEST_CARD].decode("utf-8", "replace")
    front = text[4:].partition("\n---")[0] if text.startswith("---\n") else ""
    for key, value in _named_files(front, str(card)):
        if "://" in value or Path(value).is_absolute() or ".." in Path(value).parts:
            raise DataError(
                f"{key} names files elsewhere ({value!r})", where=str(card), remedy="name files of this folder only"
            )


def _named_files(front: str, where: str) -> Iterator[tuple[str, str]]:
    """Every text below ``data_files`` or ``data_dir`` in the front matter of a card."""
    import yaml

    try:
        waiting = [("", yaml.safe_load(front))]
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise DataError("its front matter is not YAML", where=where, remedy="fix it or remove the file") from error
    visits: set[tuple[int, str]] = set()  # of an alias that holds itself
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str) and key:
            yield key, value
        elif isinstance(value, dict | list) and (id(value), key) not in visits:
            visits.add((id(value), key))
            pairs = value.items() if isinstance(value, dict) else ((None, item) for item in value)
            waiting += [(str(name) if name in ("data_files", "data_dir") else key, item) for name, item in pairs]
