"""``embedkit doctor``: find what is wrong with a model, a run, a recipe or data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from embedkit.cli.output import AllowPickle, JsonFile, TrustRemoteCode, check_json, console, show, write_json


def doctor(
    subject: Annotated[
        str, typer.Argument(metavar="MODEL|RUN|RECIPE|DATA", help="Folder, hub id, recipe name, or file.")
    ],
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    json_file: JsonFile = None,
) -> None:
    """Find faults in a model, run, recipe or data.

    Prints figures and findings, each with evidence and remedy. Exit code 0 also with findings: they are advice.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> with open("faq.csv", "w") as file:
    ...     _ = file.write("question,answer\\nHow do I pay?,By card or in cash at the desk.\\nWhere are you?,\\n")
    >>> main(["doctor", "faq.csv"])
    data faq.csv
      rows looked at: 2
      columns: question, answer
      column question: 2 different texts, 3.5 words on average
      column answer: 2 different texts, 4.0 words on average
    ! column 'answer' has empty texts (1 of 2)
      drop these rows
    findings: 1
    0
    """
    check_json(json_file)
    from embedkit.doctor import examine

    examination = examine(subject, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    out = console(json_file)
    out.print(f"{examination.kind} {examination.subject}")
    for key, value in examination.facts.items():
        out.print(f"  {key}: {show(value)}")
    for finding in examination.findings:
        out.print(f"! {finding.what} ({finding.evidence})\n  {finding.remedy}")
    out.print(f"findings: {len(examination.findings)}" if examination.findings else "nothing found")
    write_json(json_file, asdict(examination))
