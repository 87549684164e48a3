"""``embedkit select``: the rows of a file that pass criteria."""

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


def select(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Rows with texts or images, of any format.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File to write, .jsonl or .parquet.")],
    criteria: Annotated[
        list[str], typer.Argument(metavar="CRITERION", help="NAME, NAME=VALUE or NAME={SETTING: VALUE}, in order.")
    ],
    model: Annotated[TextOption, typer.Option("--model", "-m", help="Model folder or hub id.")] = None,
    vectors: Annotated[TextOption, typer.Option("--vectors", metavar="FILE.npy", help="A vector for each row.")] = None,
    image_vectors: Annotated[
        TextOption, typer.Option("--image-vectors", metavar="FILE.npy", help="A vector for each row's image.")
    ] = None,
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
    """Choose rows by criteria, each applied to what the one before has left.

    Criteria: equal-text, near-duplicates=0.95, length=10, score={top: 50%}, caption, image-text=0.25, diversity=1000,
    augmentation-similarity=50%, random=50%, or my.py:function; docs/training-data.md has their settings.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> _ = Path("texts.txt").write_text("a cat\\nA cat.\\na\\na dog\\n")
    >>> main(["select", "texts.txt", "few.jsonl", "equal-text", "length=3"])
    4 rows read, 2 selected
    equal-text left out 1 of 4: columns text, groups 1
      A cat.  ~  a cat
    length (least=3) left out 1 of 3: short 1, long 0
      1.000  a
    rows in ...few.jsonl
    0
    """
    values = dict(locals())
    check_json(values.pop("json_file"))
    values["where"] = mapping_option(where, "--where")
    loading = model_options(values, model is not None)
    single_process("select", loading)
    from embedkit.mining.selection.api import select as run

    with bar("select") as progress:
        result = run(values.pop("file"), progress=progress, load_options=loading, **values)
    tell(result, json_file)
