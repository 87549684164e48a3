"""``embedkit label``: the clusters of rows, or the nouns or topics of their captions, as a column."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
from embedkit.errors import COMMAND_LINE, UserError

TextOption = str | None
_OF_TEXTS = {"output", "overwrite", "column", "name", "least", "split", "where", "limit"}
_OF = {"nouns": _OF_TEXTS | {"size"}, "topics": _OF_TEXTS | {"topics", "most", "steps", "seed"}}
_PLAIN = {"min_rows": 1, "restarts": 3, "seed": 0}


def label(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Rows with texts or images, of any format.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File to write, .jsonl or .parquet.")],
    clusters: Annotated[int | None, typer.Option("--clusters", "-k", min=2, help="How many clusters.")] = None,
    nouns: Annotated[bool, typer.Option("--nouns", help="Nouns of English captions, not clusters.")] = False,
    topics: Annotated[int | None, typer.Option("--topics", min=2, help="Shares of so many topics (LDA).")] = None,
    least: Annotated[int | None, typer.Option("--least", min=1, help="Rows that a noun or word must have; 2.")] = None,
    most: Annotated[
        float | None, typer.Option("--most", help="Share of rows that a topic's word may have; 0.5.")
    ] = None,
    size: Annotated[int | None, typer.Option("--size", min=1, help="Nouns at most, the most frequent.")] = None,
    model: Annotated[TextOption, typer.Option("--model", "-m", help="Model folder or hub id.")] = None,
    vectors: Annotated[TextOption, typer.Option("--vectors", metavar="FILE.npy", help="A vector for each row.")] = None,
    column: Annotated[TextOption, typer.Option("--column", help="Column of the texts.")] = None,
    image_column: Annotated[TextOption, typer.Option("--image-column", help="Column of the images.")] = None,
    name: Annotated[TextOption, typer.Option("--name", help="Name of the new column; label, nouns, topics.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of a column of that name.")] = False,
    min_rows: Annotated[int, typer.Option("--min-rows", min=1, help="Leave out smaller clusters.")] = 1,
    restarts: Annotated[int, typer.Option("--restarts", min=1, help="Runs; the best one counts.")] = 3,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of a run; 100, of topics 20.")] = None,
    spherical: Annotated[bool, typer.Option("--spherical", help="Centres of length 1.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")] = 0,
    centres: Annotated[TextOption, typer.Option("--centres", metavar="FILE.npy", help="Write the centres.")] = None,
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
    """Add a column with each row's cluster (k-means), 0 for the largest; or the nouns or topics of its caption.

    `embedkit train RECIPE OUTPUT data.sampler=by-label data.per_label=N` with N as large as the batch takes each batch
    from one cluster. Printed are the sizes of the clusters and examples to read. With --nouns the column is a list,
    for a head of kind classes: `embedkit train catlip OUTPUT`; rows that name nothing are left out. With --topics it is
    a list of shares by a topic model of the texts, for a head of kind degrees: `embedkit train texttopicnet OUTPUT`.

    \f
    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.cli.app import main
    >>> _ = Path("texts.txt").write_text("a cat\\ntwo cats\\nrain\\nsnow\\n")
    >>> np.save("vectors.npy", np.array([[1.0, 0.1], [0.9, 0.0], [0.0, 1.0], [0.1, 1.0]]))
    >>> main(["label", "texts.txt", "labels.jsonl", "--vectors", "vectors.npy", "-k", "2"])
    4 rows in 2 clusters of 2 to 2 rows, 2.0 on average
    ...
    rows in ...labels.jsonl
    0
    >>> main(["label", "texts.txt", "nouns.jsonl", "--nouns", "--least", "1"])
    4 rows with 1.0 of 3 nouns on average
    most frequent: cat (2), rain (1), snow (1)
    rows in ...nouns.jsonl
    0
    """
    values = dict(locals())
    check_json(values.pop("json_file"))
    values["where"] = mapping_option(where, "--where")
    if nouns or topics is not None:
        _of_texts(values, "nouns" if nouns else "topics", json_file)
        return
    for option in ("nouns", "topics", "least", "size", "most"):
        if values.pop(option):
            raise UserError("it has no effect on clusters", where=f"--{option}",
                            remedy="add --nouns or --topics, or leave it out")  # fmt: skip
    if clusters is None:
        raise UserError("none of --clusters, --nouns and --topics says what a label is", where=COMMAND_LINE,
                        remedy="write `embedkit label FILE OUTPUT --clusters CLUSTERS`, or add --nouns")  # fmt: skip
    values |= {"name": name or "label", "steps": 100 if steps is None else steps}
    loading = model_options(values, model is not None)
    single_process("label", loading)
    from embedkit.mining.labels.api import label as run

    with bar("label") as progress:
        result = run(values.pop("file"), progress=progress, load_options=loading, **values)
    tell(result, json_file)


def _of_texts(values: dict[str, Any], kind: str, json_file: str | None) -> None:
    """Nouns or topics as labels; options of other kinds are refused."""
    file = values.pop("file")
    if kind == "nouns":
        del values["nouns"]
    for name, value in values.items():
        if name not in _OF[kind] and value not in (None, False, _PLAIN.get(name)):
            option = "--" + name.replace("_", "-")
            raise UserError(f"it has no effect on {kind}", where=option, remedy=f"leave it out, or leave --{kind} out")
    from embedkit.mining.labels.nouns import label_nouns
    from embedkit.mining.labels.topics import label_topics

    settings = {name: value for name, value in values.items() if name in _OF[kind] and value is not None}
    tell((label_nouns if kind == "nouns" else label_topics)(file, **settings), json_file)
