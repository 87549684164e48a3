"""``embedkit index``: an index folder of the texts or images of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedkit.cli.output import (
    AllowPickle,
    Device,
    Dtype,
    Engine,
    JsonFile,
    Revision,
    TruncateDim,
    TrustRemoteCode,
    bar,
    check_json,
    console,
    place,
    write_json,
)
from embedkit.errors import COMMAND_LINE, UserError


def index(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="txt, csv, tsv, jsonl or parquet file, also .gz; a folder of images.")
    ],
    folder: Annotated[str, typer.Argument(metavar="INDEX", help="Folder to write.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Model folder or hub id.")],
    column: Annotated[
        str | None, typer.Option("--column", help="Column of the texts or images, where there are several.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="Column whose values name the rows; id, _id ...")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Split of FILE, where it has several.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Rows of FILE at most.")] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Name or text of a prompt; the model's for documents when not given.")
    ] = None,
    truncate_dim: TruncateDim = None,
    codes: Annotated[
        str | None,
        typer.Option("--codes", help="For quicker searches: uint8, ubinary (these when not given), pca; or none."),
    ] = None,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Keep the numbers other than zero only, for a model of sparse codes.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index that is there.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    json_file: JsonFile = None,
) -> None:
    """Make an index of the texts or images of a file or folder, for `embedkit search`.

    The folder holds the vectors, their smaller forms, ids and texts (or the paths of images), and the model's hash. It
    is whole or not there; a stopped run resumes when it is started again.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> _ = build(load_recipe("quickstart").model).save("model")
    >>> _ = Path("faq.txt").write_text("how do I pay?\\nwhere are you?\\n")
    >>> main(["index", "faq.txt", "faq-index", "--model", "model"])
    2 rows of 64 numbers in faq-index, with uint8, ubinary; search it with `embedkit search faq-index "a query"`
    0
    """
    check_json(json_file)
    names = [] if codes == "none" else None if codes is None else [name.strip() for name in codes.split(",")]
    state, device = place(device)
    if state.num_processes > 1:
        raise UserError("an index is built by one process", where=COMMAND_LINE,
                        remedy="start it once, without torchrun or accelerate launch")  # fmt: skip
    from embedkit.models.encode.engine import engine as engine_of
    from embedkit.retrieval.build import build_index, check_target

    check_target(folder, overwrite)
    with engine_of(engine), bar("rows") as progress:
        result = build_index(
            source, folder, model, column=column, id_column=id_column, split=split, limit=limit, prompt=prompt,
            truncate_dim=truncate_dim, codes=names, sparse=sparse, overwrite=overwrite, dtype=dtype, progress=progress,
            device=device, revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle,
        )  # fmt: skip
    settings = result.settings
    forms = ", sparse" if settings.sparse else f", with {', '.join(settings.codes)}" if settings.codes else ""
    console(json_file).print(
        f"{settings.rows:,} rows of {settings.dim} numbers in {folder}{forms}; "
        f'search it with `embedkit search {folder} "a query"`'
    )
    write_json(json_file, {"output": Path(folder), "rows": settings.rows, "dim": settings.dim, "codes": settings.codes,
                           "sparse": settings.sparse, "model_hash": settings.model_hash,
                           "similarity": settings.similarity})  # fmt: skip
