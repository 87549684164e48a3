"""``embedkit encode``: vectors of the texts or images of a file or folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embedkit.cli.output import (
    AllowPickle,
    Device,
    JsonFile,
    ModelName,
    Revision,
    TrustRemoteCode,
    check_json,
    console,
    place,
    write_json,
)


def encode(
    model: ModelName,
    input: Annotated[
        str, typer.Option("--input", "-i", help="txt, csv, tsv, jsonl or parquet file, also .gz; a folder of images.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .npy or .parquet.")],
    column: Annotated[
        str | None, typer.Option("--column", help="Column of the texts or images, where there are several.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Name or text of a prompt.")] = None,
    dim: Annotated[int | None, typer.Option("--dim", help="Keep the first coordinates only (Matryoshka).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output where it exists.")] = False,
    device: Device = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    json_file: JsonFile = None,
) -> None:
    """Encode the texts or images of a file or folder.

    Row i of the output belongs to row i of the input. Memory stays constant; a run that was stopped goes on when it is
    started again. On several processes: torchrun --nproc-per-node 2 -m embedkit encode ...
    """
    check_json(json_file)
    from embedkit.formats import load
    from embedkit.models import encode_file
    from embedkit.models.encode.file_encoding import check_encoding

    check_encoding(input, output, column=column, overwrite=overwrite)
    state, device = place(device)
    reading = {"trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle}
    loaded = load(model, device=device, revision=revision, **reading)
    result = encode_file(
        loaded, input, output, column=column, prompt=prompt, truncate_dim=dim, overwrite=overwrite,
        progress=state.is_main_process and sys.stderr.isatty(),  # a bar is for people
    )  # fmt: skip
    if not state.is_main_process:
        return
    console(json_file).print(f"{result.rows:,} rows of {result.dim} numbers in {result.output}")
    write_json(json_file, vars(result))
