"""``embedkit mine``: hard negatives for a file of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedkit.cli.output import (
    LOADING,
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
    mapping_option,
    model_options,
    place,
    write_json,
)

NumberOption = float | None
TextOption = str | None


def mine(
    pairs: Annotated[str, typer.Argument(metavar="PAIRS", help="What `train pairs` reads: anchors and positives.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File to write, .jsonl or .parquet.")],
    model: Annotated[TextOption, typer.Option("--model", "-m", help="Model folder or hub id.")] = None,
    corpus: Annotated[
        TextOption, typer.Option("--corpus", help="Where negatives are looked for; the positives when not given.")
    ] = None,
    columns: Annotated[
        TextOption, typer.Option("--columns", help="Columns of PAIRS: '{q: anchor, a: positive}'.")
    ] = None,
    split: Annotated[TextOption, typer.Option("--split", help="Split of PAIRS, where it has several.")] = None,
    where: Annotated[TextOption, typer.Option("--where", help="Rows of PAIRS to keep: '{lang: en}'.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Rows of PAIRS at most.")] = None,
    id_column: Annotated[TextOption, typer.Option("--id-column", help="Column with the positive's id.")] = None,
    corpus_column: Annotated[
        TextOption, typer.Option("--corpus-column", help="Column with the corpus's texts.")
    ] = None,
    corpus_id_column: Annotated[
        TextOption, typer.Option("--corpus-id-column", help="Column with the corpus's ids.")
    ] = None,
    anchor_vectors: Annotated[
        TextOption, typer.Option("--anchor-vectors", metavar="FILE.npy", help="A vector for each row of PAIRS.")
    ] = None,
    corpus_vectors: Annotated[
        TextOption, typer.Option("--corpus-vectors", metavar="FILE.npy", help="A vector for each row of the corpus.")
    ] = None,
    positive_vectors: Annotated[
        TextOption, typer.Option("--positive-vectors", metavar="FILE.npy", help="Where the corpus has no positives.")
    ] = None,
    num_negatives: Annotated[int, typer.Option("--num-negatives", "-n", min=1, help="Negatives of an anchor.")] = 3,
    range_min: Annotated[int, typer.Option("--range-min", min=0, help="First rank looked at, from 0.")] = 0,
    range_max: Annotated[int | None, typer.Option("--range-max", min=1, help="Rank behind the last.")] = None,
    absolute_margin: Annotated[
        NumberOption, typer.Option("--absolute-margin", help="Negatives score this much below the positive.")
    ] = None,
    relative_margin: Annotated[
        NumberOption, typer.Option("--relative-margin", help="The same, as a share of the positive's score.")
    ] = None,
    max_score: Annotated[NumberOption, typer.Option("--max-score", help="Highest score of a negative.")] = None,
    min_score: Annotated[NumberOption, typer.Option("--min-score", help="Lowest score of a negative.")] = None,
    sampling: Annotated[str, typer.Option("--sampling", help="top, random or temperature.")] = "top",
    temperature: Annotated[NumberOption, typer.Option("--temperature", help="Of --sampling temperature.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the sampling.")] = 0,
    cross_encoder: Annotated[
        TextOption,
        typer.Option("--cross-encoder", help="Folder, hub id or my.py:function whose scores the bounds read."),
    ] = None,
    cross_encoder_label: Annotated[
        TextOption, typer.Option("--cross-encoder-label", help="Which of its outputs, where it has several.")
    ] = None,
    similarity: Annotated[str, typer.Option("--similarity", help="cosine, or dot for inner products.")] = "cosine",
    too_few: Annotated[
        str, typer.Option("--too-few", help="keep or drop anchors with fewer negatives than asked for.")
    ] = "keep",
    one_per_row: Annotated[bool, typer.Option("--one-per-row", help="Triplets: a row for each negative.")] = False,
    as_list: Annotated[bool, typer.Option("--as-list", help="One column `negatives` with lists.")] = False,
    output_scores: Annotated[bool, typer.Option("--output-scores", help="Add a column `scores`.")] = False,
    query_prompt: Annotated[
        TextOption, typer.Option("--query-prompt", help="Name or text of the anchors' prompt.")
    ] = None,
    corpus_prompt: Annotated[
        TextOption, typer.Option("--corpus-prompt", help="Name or text of the candidates' prompt.")
    ] = None,
    truncate_dim: TruncateDim = None,
    block_size: Annotated[
        int, typer.Option("--block-size", min=1, help="Candidates in memory at a time; the output stays the same.")
    ] = 16_384,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output where it exists.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    json_file: JsonFile = None,
) -> None:
    """Add hard negatives to pairs: texts that a model finds similar to an anchor and that are not its positives.

    The output is what `embedkit train pairs OUTPUT` reads. Printed are counts, histograms of scores, the share of
    likely false negatives, and examples to read.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> _ = build(load_recipe("quickstart").model).save("model")
    >>> lines = ["anchor,positive", "how do I pay?,pay by card", "where are you?,we are in town", "when?,we open at 9"]
    >>> _ = Path("faq.csv").write_text("\\n".join(lines))
    >>> main(["mine", "faq.csv", "mix.jsonl", "--model", "model", "-n", "2"])
    3 pairs, 3 anchors, 3 candidates: 6 negatives, 3 rows
    ...
    rows in mix.jsonl; train on them with `embedkit train pairs mix.jsonl`
    0
    """
    values = dict(locals())
    check_json(json_file)
    loading = model_options(values, model is not None, LOADING[1:])  # the search has a device too
    values.update(columns=mapping_option(columns, "--columns"), where=mapping_option(where, "--where"))
    data, _ = values.pop("pairs"), values.pop("json_file")
    del values["engine"]
    state, values["device"] = place(device)
    from embedkit.mining import mine as run
    from embedkit.models.encode.engine import engine as engine_of

    with engine_of(engine), bar("mine") as progress:
        result = run(data, progress=progress, load_options=loading, **values)
    if not state.is_main_process:
        return
    out = console(json_file)
    for line in (*result.report.notes, *result.report.lines()):
        out.print(line)
    out.print(f"rows in {output}; train on them with `embedkit train pairs {output}`")
    write_json(json_file, {"output": result.output, **result.report.to_json()})
