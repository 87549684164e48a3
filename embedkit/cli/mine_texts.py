"""``embedkit mine-positives``, ``mine-paraphrases`` and ``mine-bitext``: pairs from texts that nobody has paired."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from embedkit.cli.output import (
    LOADING,
    AllowPickle,
    Device,
    Dtype,
    JsonFile,
    Revision,
    TruncateDim,
    TrustRemoteCode,
    bar,
    check_json,
    console,
    model_options,
    place,
    write_json,
)

Texts = Annotated[str, typer.Argument(metavar="TEXTS", help="A file with a text a row.")]
Output = Annotated[Path, typer.Argument(metavar="OUTPUT", help="File to write, .jsonl or .parquet.")]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="Model folder or hub id.")]
Column = Annotated[str | None, typer.Option("--column", help="Column with the texts.")]
VectorFile = Annotated[
    str | None, typer.Option("--vectors", metavar="FILE.npy", help="A vector for each row, of any model or graph.")
]
MinScore = Annotated[float | None, typer.Option("--min-score", help="Lowest score of a pair.")]
Similarity = Annotated[str, typer.Option("--similarity", help="cosine, or dot for inner products.")]
OutputScores = Annotated[bool, typer.Option("--output-scores", help="Add a column `score`.")]
Prompt = Annotated[str | None, typer.Option("--prompt", help="Name or text of the model's prompt.")]
BlockSize = Annotated[
    int, typer.Option("--block-size", min=1, help="Vectors in memory at a time; the output stays the same.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output where it exists.")]


def mine_positives(
    texts: Texts,
    output: Output,
    model: ModelOption = None,
    corpus: Annotated[
        str | None, typer.Option("--corpus", help="Where neighbours are looked for; the texts when not given.")
    ] = None,
    column: Column = None,
    id_column: Annotated[str | None, typer.Option("--id-column", help="Column with the texts' ids.")] = None,
    corpus_column: Annotated[
        str | None, typer.Option("--corpus-column", help="Column with the corpus's texts.")
    ] = None,
    corpus_id_column: Annotated[
        str | None, typer.Option("--corpus-id-column", help="Column with the corpus's ids.")
    ] = None,
    vectors: VectorFile = None,
    corpus_vectors: Annotated[
        str | None, typer.Option("--corpus-vectors", metavar="FILE.npy", help="A vector for each row of the corpus.")
    ] = None,
    positive_ranks: Annotated[str, typer.Option("--positive-ranks", help="Ranks first:stop of the positives.")] = "0:1",
    negative_ranks: Annotated[
        str | None, typer.Option("--negative-ranks", help="Ranks first:stop of hard negatives.")
    ] = None,
    easy_negatives: Annotated[
        int, typer.Option("--easy-negatives", min=0, help="Negatives drawn from behind these ranks.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of that draw.")] = 0,
    min_score: MinScore = None,
    one_per_row: Annotated[bool, typer.Option("--one-per-row", help="Triplets, one negative a row.")] = False,
    similarity: Similarity = "cosine",
    output_scores: OutputScores = False,
    prompt: Prompt = None,
    corpus_prompt: Annotated[
        str | None, typer.Option("--corpus-prompt", help="Name or text of the corpus's prompt.")
    ] = None,
    truncate_dim: TruncateDim = None,
    block_size: BlockSize = 16_384,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    json_file: JsonFile = None,
) -> None:
    """Pair texts with their near neighbours, and with farther ones as negatives.

    Vectors of another model, or of a citation graph, give the triplets of SciNCL: --positive-ranks 20:25
    --negative-ranks 3998:4000 --easy-negatives 3 --one-per-row.

    \f
    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.cli.app import main
    >>> _ = Path("papers.txt").write_text("on cats\\non dogs\\non cats, again\\n")
    >>> np.save("graph.npy", np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]))
    >>> main(["mine-positives", "papers.txt", "bands.jsonl", "--vectors", "graph.npy", "--min-score", "0.5"])
    3 texts: 2 pairs, 2 rows
    ...
    0
    """
    from embedkit.mining.neighbours.api import mine_positives as run

    values = dict(locals())
    _run(values, "mine-positives", lambda: run(values.pop("texts"), **values))


def mine_paraphrases(
    texts: Texts,
    output: Output,
    model: ModelOption = None,
    column: Column = None,
    vectors: VectorFile = None,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Neighbours looked at; 100.")] = None,
    min_score: MinScore = None,
    max_score: Annotated[float | None, typer.Option("--max-score", help="Highest score of a pair.")] = None,
    max_pairs: Annotated[int, typer.Option("--max-pairs", min=1, help="Pairs at most, the best.")] = 500_000,
    equal_texts: Annotated[
        str, typer.Option("--equal-texts", help="drop takes equal texts for one; keep pairs them, too.")
    ] = "drop",
    similarity: Similarity = "cosine",
    output_scores: OutputScores = False,
    prompt: Prompt = None,
    truncate_dim: TruncateDim = None,
    block_size: BlockSize = 16_384,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    json_file: JsonFile = None,
) -> None:
    """Pair the texts of one file that are near to each other, the nearest first.

    \f
    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.cli.app import main
    >>> _ = Path("faq.txt").write_text("pay how?\\nwhere are you?\\nhow can I pay?\\n")
    >>> np.save("faq.npy", np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]))
    >>> main(["mine-paraphrases", "faq.txt", "near.jsonl", "--vectors", "faq.npy", "--min-score", "0.8"])
    3 texts: 1 pairs, 1 rows
    ...
    0
    """
    from embedkit.mining.neighbours.api import mine_paraphrases as run

    values = dict(locals())
    _run(values, "mine-paraphrases", lambda: run(values.pop("texts"), **values))


def mine_bitext(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file with a text a row.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The same in another language.")],
    output: Output,
    model: ModelOption = None,
    source_column: Annotated[str | None, typer.Option("--source-column", help="Column with the texts.")] = None,
    target_column: Annotated[str | None, typer.Option("--target-column", help="Column with the texts.")] = None,
    source_vectors: Annotated[
        str | None, typer.Option("--source-vectors", metavar="FILE.npy", help="A vector for each row of SOURCE.")
    ] = None,
    target_vectors: Annotated[
        str | None, typer.Option("--target-vectors", metavar="FILE.npy", help="A vector for each row of TARGET.")
    ] = None,
    margin: Annotated[str, typer.Option("--margin", help="ratio, distance or absolute.")] = "ratio",
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Neighbours for the margin; 4.")] = None,
    direction: Annotated[str, typer.Option("--direction", help="max, intersection, forward or backward.")] = "max",
    min_score: MinScore = None,
    max_pairs: Annotated[int | None, typer.Option("--max-pairs", min=1, help="Pairs at most, the best.")] = None,
    similarity: Similarity = "cosine",
    output_scores: OutputScores = False,
    source_prompt: Annotated[str | None, typer.Option("--source-prompt", help="Name or text of a prompt.")] = None,
    target_prompt: Annotated[str | None, typer.Option("--target-prompt", help="Name or text of a prompt.")] = None,
    truncate_dim: TruncateDim = None,
    block_size: BlockSize = 16_384,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    json_file: JsonFile = None,
) -> None:
    """Find translations among the texts of two languages, by the margin over their neighbours.

    \f
    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.cli.app import main
    >>> _ = Path("en.txt").write_text("a cat\\na dog\\n"), Path("de.txt").write_text("ein Hund\\neine Katze\\n")
    >>> np.save("en.npy", np.eye(2) + 0.1)
    >>> np.save("de.npy", np.eye(2)[::-1] + 0.1)
    >>> main(["mine-bitext", "en.txt", "de.txt", "pairs.jsonl", "--source-vectors", "en.npy",
    ...       "--target-vectors", "de.npy", "--top-k", "2"])
    2 texts and 2 others: 2 pairs, 2 rows
    ...
    0
    """
    from embedkit.mining.neighbours.api import mine_bitext as run

    values = dict(locals())
    if top_k is None:
        del values["top_k"]
    _run(values, "mine-bitext", lambda: run(values.pop("source"), values.pop("target"), **values))


def _run(values: dict[str, Any], label: str, call: Callable[[], Any]) -> None:
    """Make a command's `values` the arguments of its function, call it, and print the report."""
    del values["run"]
    json_file, device = values.pop("json_file"), values["device"]
    check_json(json_file)
    loading = model_options(values, values["model"] is not None, LOADING[1:])  # the search has a device too
    state, values["device"] = place(device)
    with bar(label) as values["progress"]:
        values["load_options"] = loading
        result = call()
    if not state.is_main_process:
        return
    out = console(json_file)
    for line in (*result.report.notes, *result.report.lines()):
        out.print(line)
    out.print(f"rows in {result.output}; train on them with `embedkit train pairs {result.output}`")
    write_json(json_file, {"output": result.output, **result.report.to_json()})
