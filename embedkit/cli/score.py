"""``embedkit score``: scores of the pairs of a file."""

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
    mapping_option,
    model_options,
    single_process,
    tell,
)

NumberOption = float | None
TextOption = str | None


def score(
    pairs: Annotated[str, typer.Argument(metavar="PAIRS", help="What `train pairs` reads, also with negatives.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File to write, .jsonl or .parquet.")],
    scorer: Annotated[
        TextOption, typer.Option("--scorer", "-s", help="Cross-encoder or classifier, or my.py:function.")
    ] = None,
    model: Annotated[TextOption, typer.Option("--model", "-m", help="Encoder whose similarities are scores.")] = None,
    columns: Annotated[
        TextOption, typer.Option("--columns", help="Columns of PAIRS: '{q: anchor, a: positive}'.")
    ] = None,
    split: Annotated[TextOption, typer.Option("--split", help="Split of PAIRS, where it has several.")] = None,
    where: Annotated[TextOption, typer.Option("--where", help="Rows of PAIRS to keep: '{lang: en}'.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Rows of PAIRS at most.")] = None,
    random_zeros: Annotated[
        int, typer.Option("--random-zeros", min=0, help="Random pairs of each anchor, with the score 0.")
    ] = 0,
    zeros_below: Annotated[
        NumberOption, typer.Option("--zeros-below", help="Score random pairs, and take those below this.")
    ] = None,
    smoothing: Annotated[float, typer.Option("--smoothing", help="Score * (1 - S) + S / 2; CLAIF has 0.2.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random pairs.")] = 0,
    label: Annotated[TextOption, typer.Option("--label", help="Name or number of the classifier's output.")] = None,
    activation: Annotated[TextOption, typer.Option("--activation", help="identity, sigmoid, softmax or tanh.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pairs of a batch of the scorer.")] = 32,
    max_length: Annotated[int | None, typer.Option("--max-length", min=4, help="Tokens of a pair at most.")] = None,
    similarity: Annotated[str, typer.Option("--similarity", help="cosine, or dot for inner products.")] = "cosine",
    query_prompt: Annotated[TextOption, typer.Option("--query-prompt", help="Prompt of the anchors.")] = None,
    corpus_prompt: Annotated[TextOption, typer.Option("--corpus-prompt", help="Prompt of the other texts.")] = None,
    truncate_dim: TruncateDim = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output where it exists.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    json_file: JsonFile = None,
) -> None:
    """Score pairs by a cross-encoder, a function or an encoder.

    The output is what `embedkit train scored-pairs OUTPUT` reads; rows with negatives get a score for each text, for
    `embedkit train pairs OUTPUT objective=margin-mse`.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> _ = Path("my.py").write_text("def same(a, b): return [float(x == y) for x, y in zip(a, b)]")
    >>> _ = Path("pairs.csv").write_text("anchor,positive\\na cat,a cat\\na dog,rain\\n")
    >>> main(["score", "pairs.csv", "scored.jsonl", "--scorer", "my.py:same"])
    2 rows: 2 different pairs scored from 0.000 to 1.000, 0.500 on average
    ...
    rows in ...scored.jsonl
    0
    """
    values = dict(locals())
    check_json(values.pop("json_file"))
    del values["engine"]
    loading = model_options(values, True)
    values.update(columns=mapping_option(columns, "--columns"), where=mapping_option(where, "--where"))
    single_process("score", loading)
    from embedkit.mining.scores.api import score as run
    from embedkit.models.encode.engine import engine as engine_of

    loading = {name: value for name, value in loading.items() if value}
    with engine_of(engine), bar("score") as progress:
        result = run(values.pop("pairs"), progress=progress, load_options=loading, **values)
    tell(result, json_file)
