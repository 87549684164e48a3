"""``embedkit encode``: vectors of the texts or images of a file or folder."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from embedkit.cli.output import (
    AllowPickle,
    Device,
    Dtype,
    Engine,
    JsonFile,
    ModelName,
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


def encode(
    model: ModelName,
    input: Annotated[
        str | None,
        typer.Argument(metavar="INPUT", help="txt, csv, tsv, jsonl or parquet file, also .gz; a folder of images."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Argument(metavar="OUTPUT", help="File to write, .npy, .npz or .parquet; INPUT.npy when not given."),
    ] = None,
    input_option: Annotated[str | None, typer.Option("--input", "-i", help="INPUT, as an option.")] = None,
    output_option: Annotated[str | None, typer.Option("--output", "-o", help="OUTPUT, as an option.")] = None,
    column: Annotated[
        str | None, typer.Option("--column", help="Column of the texts or images, where there are several.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="Column whose values are kept beside the vectors; id, _id ...")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Name or text of a prompt.")] = None,
    tower: Annotated[
        str | None, typer.Option("--tower", metavar="NAME", help="The tower that reads them, of a model with several.")
    ] = None,
    truncate_dim: TruncateDim = None,
    layers: Annotated[
        int | None, typer.Option("--layers", min=1, help="The first layers of a text encoder alone.")
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="Of the vectors: float32, int8, uint8, binary or ubinary.")
    ] = "float32",
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Numbers other than zero only, for scipy.sparse: INPUT.npz.")
    ] = False,
    ranges: Annotated[
        str | None,
        typer.Option("--ranges", metavar="FILE", help="Of int8, uint8: OUTPUT.ranges.json of another run."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output where it exists.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    json_file: JsonFile = None,
) -> None:
    """Encode the texts or images of a file or folder.

    Row i of the output belongs to row i of the input; ids of the rows stand in OUTPUT.ids.jsonl, or in the column id
    of a parquet file. Memory stays constant; a stopped run resumes when it is started again. On several processes:
    torchrun --nproc-per-node 2 -m embedkit encode ...

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> _ = build(load_recipe("quickstart").model).save("model")
    >>> _ = Path("texts.txt").write_text("how do I pay?\\nwhere are you?\\n")
    >>> main(["encode", "model", "texts.txt", "vectors.npy"])
    2 rows of 64 numbers in ...vectors.npy
    0
    """
    check_json(json_file)
    source, target = _places(model, [input, output], input_option, output_option, ".npz" if sparse else ".npy")
    if sparse and target.suffix != ".npz":
        raise UserError(f"--sparse writes .npz, not {target.suffix}", where=COMMAND_LINE, remedy="name OUTPUT so")
    from embedkit.formats import load
    from embedkit.models import encode_file
    from embedkit.models.combined.multi import named_tower
    from embedkit.models.encode.engine import engine as engine_of
    from embedkit.models.encode.file_encoding import check_encoding
    from embedkit.models.encode.joining import check_precision
    from embedkit.models.encode.quantization import bounds_of

    check_precision(target, precision)
    check_encoding(source, target, column=column, overwrite=overwrite)
    bounds = bounds_of(precision, ranges)
    state, device = place(device)
    encoder = load(
        model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, revision=revision,
        allow_pickle=allow_pickle, layers=layers,
    )  # fmt: skip
    encoder = encoder if tower is None else named_tower(encoder, tower)
    with engine_of(engine), bar("rows") if state.is_main_process else nullcontext() as progress:
        result = encode_file(
            encoder, source, target, column=column, id_column=id_column, prompt=prompt, truncate_dim=truncate_dim,
            precision=precision, ranges=bounds, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    if not state.is_main_process:
        return
    out = console(json_file)
    kind = "" if precision == "float32" else f", {precision}"
    out.print(f"{result.rows:,} rows of {result.dim} numbers{kind} in {result.output}")
    if result.ranges is not None:
        origin = f"learnt from these {result.range_rows:,} rows" if result.range_rows else f"those of {ranges}"
        out.print(f"ranges of the coordinates, {origin}, in {result.ranges}; give them for other files: --ranges")
    if result.ids is not None:
        out.print(f"ids of the rows, from column {result.id_column!r}, in {result.ids}")
    write_json(json_file, vars(result))


def _places(
    model: str, words: list[str | None], source: str | None, target: str | None, suffix: str
) -> tuple[str, Path]:
    """Where the rows come from and where the vectors go, as arguments or options."""
    from embedkit.config.overrides import is_data_file

    if words[0] is not None and Path(model).is_file() and (Path(words[0]) / "config.json").is_file():
        raise UserError(f"{model!r} is a file, and the model stands behind it", where=COMMAND_LINE,
                        remedy=f"write `embedkit encode {words[0]} {model}`")  # fmt: skip
    arguments = [word for word in words if word is not None]
    if source is None and not arguments:
        usage = f"embedkit encode MODEL {model}" if is_data_file(model) else f"embedkit encode {model} INPUT"
        missing = "MODEL" if is_data_file(model) else "INPUT"
        raise UserError(f"{missing} is missing", where=COMMAND_LINE, remedy=f"write `{usage}`")
    source = arguments.pop(0) if source is None else source
    if target is None:
        stem = Path(source.rstrip("/")).name.partition(".")[0] or "vectors"
        target = arguments.pop(0) if arguments else f"{stem}{suffix}"
    if arguments:
        raise UserError(f"{arguments[0]!r} is one place too many", where=COMMAND_LINE,
                        remedy="write `embedkit encode MODEL INPUT OUTPUT`")  # fmt: skip
    return source, Path(target)
