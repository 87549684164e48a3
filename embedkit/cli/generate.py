"""``embedkit generate``: texts that a writer makes from the texts of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedkit.cli.output import JsonFile, bar, check_json, mapping_option, tell

TextOption = str | None


def generate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Rows with texts, of any format.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File to write, .jsonl or .parquet.")],
    writer: Annotated[TextOption, typer.Option("--writer", "-w", help="my.py:write, a function of a prompt.")] = None,
    command: Annotated[
        TextOption, typer.Option("--command", help="A command that reads a prompt and prints the answer.")
    ] = None,
    answers: Annotated[
        TextOption, typer.Option("--answers", metavar="FILE", help="Answers of a batch service to the requests.")
    ] = None,
    as_requests: Annotated[
        bool, typer.Option("--as-requests", help="Write the requests to OUTPUT, and call nothing.")
    ] = False,
    chat_model: Annotated[
        TextOption, typer.Option("--chat-model", help="Model of the requests, for OpenAI's batches.")
    ] = None,
    template: Annotated[
        str, typer.Option("--template", "-t", help="positives, negatives, triplets, ranking, queries, or a file.")
    ] = "positives",
    kind: Annotated[TextOption, typer.Option("--kind", help="What the template of a file asks for.")] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Texts asked for, for each text.")] = 1,
    column: Annotated[TextOption, typer.Option("--column", help="Column of the texts.")] = None,
    split: Annotated[TextOption, typer.Option("--split", help="Split of FILE, where it has several.")] = None,
    where: Annotated[TextOption, typer.Option("--where", help="Rows of FILE to keep: '{lang: en}'.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Rows of FILE at most.")] = None,
    cache: Annotated[
        TextOption, typer.Option("--cache", metavar="FILE", help="Keeps the answers; OUTPUT.answers.jsonl.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Prompts of a call.")] = 1,
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="Calls at the same time.")] = 1,
    retries: Annotated[int, typer.Option("--retries", min=0, help="Further calls after one that failed.")] = 3,
    backoff: Annotated[float, typer.Option("--backoff", min=0, help="Seconds before the first of them.")] = 1.0,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds that a command may take.")] = 120.0,
    max_failures: Annotated[
        int, typer.Option("--max-failures", min=0, help="Prompts without an answer before it stops.")
    ] = 10,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output where it exists.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Write positives, negatives, ranked lists or queries for texts, by a function or a command of your own.

    Answers are kept as they come; the same call goes on where it was stopped. The output is what `embedkit train pairs
    OUTPUT` reads.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> _ = Path("my.py").write_text("def write(prompt): return [prompt.split()[-1] + ' again']")
    >>> _ = Path("end.txt").write_text("Say it otherwise: {text}")
    >>> _ = Path("texts.txt").write_text("a cat\\na dog\\n")
    >>> words = ["generate", "texts.txt", "pairs.jsonl", "--writer", "my.py:write"]
    >>> main([*words, "--template", "end.txt", "--kind", "positives"])
    2 rows read, 2 different texts: 2 requests, 0 answers reused, 0 failures
    2 texts
    2 rows
    ...
    rows in ...pairs.jsonl
    0
    """
    values = dict(locals())
    check_json(values.pop("json_file"))
    values["where"] = mapping_option(where, "--where")
    from embedkit.mining.generation.api import generate as run

    with bar("generate") as progress:
        result = run(values.pop("file"), progress=progress, **values)
    tell(result, json_file)
