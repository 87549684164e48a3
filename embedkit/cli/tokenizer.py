"""``embedkit tokenizer``: a vocabulary from the texts of a file."""

from __future__ import annotations

from typing import Annotated

import typer

from embedkit.cli.output import JsonFile, check_json, console, write_json


def tokenizer(
    source: Annotated[str, typer.Argument(metavar="FILE", help="txt, csv, tsv, jsonl or parquet file, also .gz.")],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder to write.")],
    size: Annotated[int, typer.Option("--size", min=6, help="Entries of the vocabulary at most.")] = 30_000,
    kind: Annotated[str, typer.Option("--kind", help="wordpiece, or bpe on bytes.")] = "wordpiece",
    column: Annotated[str | None, typer.Option("--column", help="Column of the texts, of several.")] = None,
    keep_case: Annotated[bool, typer.Option("--keep-case", help="Do not make texts lower case.")] = False,
    min_count: Annotated[int, typer.Option("--min-count", min=1, help="Times that a piece must occur.")] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a tokenizer that is there.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Train a tokenizer on the texts of a file, for a model from scratch: `model.tokenizer=FOLDER`.

    \f
    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.cli.app import main
    >>> _ = Path("urls.txt").write_text("shop.example/item\\nshop.example/cart\\n")
    >>> main(["tokenizer", "urls.txt", "url-pieces", "--size", "60"])
    39 entries (wordpiece) in url-pieces; train with model.tokenizer=url-pieces
    0
    """
    check_json(json_file)
    from embedkit.factory.tokenizer_training import save_tokenizer, texts_of, train_tokenizer

    pieces = train_tokenizer(texts_of(source, column), size, kind, lower_case=not keep_case, min_count=min_count)
    path = save_tokenizer(pieces, folder, overwrite=overwrite)
    console(json_file).print(f"{len(pieces):,} entries ({kind}) in {folder}; train with model.tokenizer={folder}")
    write_json(json_file, {"output": path, "kind": kind, "entries": len(pieces)})
