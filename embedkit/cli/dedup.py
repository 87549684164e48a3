"""``embedkit dedup``: the rows of a file without duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedkit.cli.output import (
    AllowPickle,
    Device,
    Dtype,
    JsonFile,
    Revision,
    TruncateDim,
    TrustRemoteCode,
    bar,
    check_json,
    mapping_option,
    model_options,
    single_process,
    tell,
)

TextOption = str | None


def dedup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Rows with texts or images, of any format.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File to write, .jsonl or .parquet.")],
    model: Annotated[TextOption, typer.Option("--model", "-m", help="Model folder or hub id.")] = None,
    vectors: Annotated[TextOption, typer.Option("--vectors", metavar="FILE.npy", help="A vector for each row.")] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Cosine of near-duplicates; 0.95 when not given.")
    ] = None,
    form: Annotated[str, typer.Option("--form", help="Equal texts: exact, spaces or letters.")] = "letters",
    keep: Annotated[str, typer.Option("--keep", help="first or longest.")] = "first",
    groups: Annotated[TextOption, typer.Option("--groups", help="greedy or components.")] = None,
    column: Annotated[TextOption, typer.Option("--column", help="Column of the texts.")] = None,
    image_column: Annotated[TextOption, typer.Option("--image-column", help="Column of the images.")] = None,
    split: Annotated[TextOption, typer.Option("--split", help="Split of FILE, where it has several.")] = None,
    where: Annotated[TextOption, typer.Option("--where", help="Rows of FILE to keep: '{lang: en}'.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Rows of FILE at most.")] = None,
    prompt: Annotated[TextOption, typer.Option("--prompt", help="Name or text of a prompt.")] = None,
    truncate_dim: TruncateDim = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output where it exists.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    json_file: JsonFile = None,
) -> None:
    """Leave out rows with equal texts and, with a model or vectors, near-duplicates: `select` with two criteria.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> _ = Path("texts.txt").write_text("a cat\\nA cat.\\na dog\\n")
    >>> main(["dedup", "texts.txt", "few.jsonl"])
    3 rows read, 2 selected
    equal-text (form=letters, keep=first) left out 1 of 3: columns text, groups 1
      A cat.  ~  a cat
    rows in ...few.jsonl
    0
    """
    values = dict(locals())
    check_json(values.pop("json_file"))
    values["where"] = mapping_option(where, "--where")
    loading = model_options(values, model is not None)
    single_process("dedup", loading)
    from embedkit.mining.selection.api import dedup as run

    with bar("dedup") as progress:
        result = run(values.pop("file"), progress=progress, load_options=loading, **values)
    tell(result, json_file)
