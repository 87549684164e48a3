"""`embedkit.generate`: texts that a writer makes from the texts of a file, as rows to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from embedkit.data.schema.roles import named_role
from embedkit.errors import DataError, UserError
from embedkit.mining.generation.answers import Answer, texts_of, triplet_of
from embedkit.mining.generation.files import answers_of, request_rows
from embedkit.mining.generation.templates import Template, template_of
from embedkit.mining.generation.writers import CommandWriter, FunctionWriter, run
from embedkit.mining.output import check_output
from embedkit.mining.pairs import CORPUS_IDS
from embedkit.mining.report import short
from embedkit.mining.rows.journal import Journal, key_of
from embedkit.mining.rows.result import RowsResult, finish, spread
from embedkit.mining.rows.table import RowTable, read_table
from embedkit.mining.settings import refuse_idle

_FAILED = "requests without an answer"
_EXAMPLES = 3


@dataclass
class GenerationReport:
    """The account of a call of `embedkit.generate`.

    Attributes
    ----------
    records : int
        Rows of the source.
    texts, requests, reused, failures : int
        Different texts, prompts that were sent, answers that were there already, and prompts that got none.
    calls : int
        Calls of the writer, repeated ones among them.
    accepted : int
        Texts that were taken from the answers.
    rejections : dict
        Reason -> texts of answers that were left out.
    rows, without : int
        Rows of the output, and rows of the source of which none came.
    examples : list of dict
        ``text`` and the ``texts`` that were written from it.
    notes : list of str
        How columns were read.

    Examples
    --------
    >>> report = GenerationReport(records=2, texts=2, requests=2, accepted=3, rejections={"refusal": 1}, rows=3)
    >>> list(report.lines())[0]
    '2 rows read, 2 different texts: 2 requests, 0 answers reused, 0 failures'
    """

    records: int = 0
    texts: int = 0
    requests: int = 0
    reused: int = 0
    failures: int = 0
    calls: int = 0
    accepted: int = 0
    rejections: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    without: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The report for people, line by line."""
        yield (
            f"{self.records:,} rows read, {self.texts:,} different texts: {self.requests:,} requests, "
            f"{self.reused:,} answers reused, {self.failures:,} failures"
        )
        if self.requests and not self.calls and not self.accepted:
            yield "requests to answer; give what comes back as answers"
            return
        if self.calls > self.requests:
            yield f"{self.calls:,} calls, since some failed and were repeated"
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in self.rejections.items())
        yield f"{self.accepted:,} texts" + (f"; left out: {left_out}" if left_out else "")
        yield f"{self.rows:,} rows" + (f"; {self.without:,} rows of the source gave none" if self.without else "")
        for example in self.examples:
            yield f"text  {short(example['text'])}"
            yield from (f"      {short(text)}" for text in example["texts"])


def generate(
    data: Any, writer: Any = None, *, template: str | Path = "positives", kind: str | None = None, number: int = 1,
    command: str | list[str] | None = None, answers: Any = None, as_requests: bool = False,
    chat_model: str | None = None, output: str | Path | None = None, overwrite: bool = False,
    column: str | None = None, split: str | None = None, where: Mapping[str, Any] | None = None,
    limit: int | None = None, cache: str | Path | None = None, batch_size: int = 1, parallel: int = 1, retries: int = 3,
    backoff: float = 1.0, timeout: float = 120.0, max_failures: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> RowsResult[GenerationReport]:  # fmt: skip
    """Rows of texts that a writer made, and a report on what it answered.

    Parameters
    ----------
    data : str, Path or object
        Whatever `embedkit.train` reads; its texts are what is written about.
    writer : callable or str, optional
        ``write(prompt) -> answer``, also as ``my.py:write``; with `batch_size` above 1 ``write(prompts) -> answers``.
    template : str or Path
        One of `embedkit.mining.generation.templates.TEMPLATES`, or a file with ``{text}``, and ``{number}``, in it.
    kind : str, optional
        What the template of a file asks for.
    number : int
        Texts that are asked for, for each text.
    command : str or list of str, optional
        In place of a writer: a command that gets a prompt as its standard input.
    answers : str, Path or object, optional
        In place of a writer: rows with ``custom_id`` and ``answer``, as a batch service gives them for the requests.
    as_requests : bool
        Give the requests that are still without an answer, as rows for such a service, and call nothing.
    chat_model : str, optional
        The model of these requests, which are then in the form of OpenAI's batches of chat completions.
    output, overwrite
        ``.jsonl`` or ``.parquet``; whether an existing one is replaced.
    column, split, where, limit
        The column of the texts, the split, values that rows must have, and how many rows are read.
    cache : str or Path, optional
        A file that keeps the answers: a call that was stopped, also by a kill, goes on with it. Beside the output when
        None; without an output in memory.
    batch_size, parallel : int
        Prompts of a call, and calls at the same time.
    retries, backoff, timeout
        Further calls after one that failed, seconds before the first of them (then twice as many each time), and
        seconds that a command may take.
    max_failures : int
        Prompts without an answer, after which it stops.
    progress : callable, optional
        Gets (answers, prompts).

    Raises
    ------
    UserError
        A setting is wrong, has no effect or is missing; the writer failed too often.
    DataError
        The rows cannot be used, or no answer holds a text.

    Examples
    --------
    >>> import embedkit
    >>> result = embedkit.generate(["a cat"], lambda prompt: '["a small feline"]')
    >>> result.rows
    [{'anchor': 'a cat', 'positive': 'a small feline'}]
    """
    for name, value, least in (("number", number, 1), ("batch_size", batch_size, 1), ("parallel", parallel, 1),
                               ("retries", retries, 0), ("max_failures", max_failures, 0)):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{value!r} is no whole number from {least} on", where=name, remedy="give another number")
    for name, seconds in (("backoff", backoff), ("timeout", timeout)):
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e6:
            raise UserError(f"{seconds!r} is no number of seconds", where=name, remedy="give another number")
    source = _one_source(writer, command, answers, as_requests)
    prompt = template_of(template, kind)
    if prompt.kind == "triplets" and number != 1:
        raise UserError("a triplet has one positive and one negative", where="number", remedy="leave it out")
    if prompt.kind == "ranking" and number < 2:
        raise UserError("a ranking has two texts or more", where="number", remedy="give 5, for example")
    _refuse_idle(source, {"chat_model": chat_model, "timeout": timeout, "batch_size": batch_size, "parallel": parallel,
                          "retries": retries, "backoff": backoff, "max_failures": max_failures})  # fmt: skip
    target = None if output is None else check_output(output, overwrite, data)
    call = _writer(source, writer, command, batch_size, timeout)
    table = read_table(data, split=split, where=where, limit=limit)
    texts = table.texts(table.text_column(column))
    _check_roles(table, prompt)
    report = GenerationReport(records=len(texts), notes=table.notes)
    place = Path(cache).expanduser() if cache is not None else None if target is None else _cache_beside(target)
    if as_requests and cache is None:
        place = None
    with Journal(place) as journal:
        name = "file" if call is None else call.name
        key_by_text = {text: key_of(name, prompt.prompt, number, text) for text in texts}
        report.texts = len(key_by_text)
        missing = {key: prompt.of(text, number) for text, key in key_by_text.items() if key not in journal}
        report.reused = report.texts - len(missing)
        if as_requests:
            report.requests = len(missing)
            if not missing:
                raise DataError("every request has its answer", where=str(place), remedy="leave as_requests out")
            return finish(request_rows(missing, chat_model), report, target)
        if answers is not None:
            _take(journal, answers, missing, report)
        elif call is not None:
            options = {"parallel": parallel, "retries": retries, "backoff": float(backoff)}
            with journal.kept("the answers"):
                _ask(journal, call, missing, report, options, max_failures, progress)
        rows = _rows(table, texts, key_by_text, journal, prompt, number, report)
    if not rows:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.rejections.items())
        failed = [note for note in report.notes if note.startswith(_FAILED)]
        raise DataError(
            f"no answer holds a text that can be used ({'; '.join(failed) or reasons or 'no answers'})",
            where=table.name, remedy="mend the writer" if failed else "look at the answers, and at the template",
        )  # fmt: skip
    return finish(rows, report, target)


def _one_source(writer: Any, command: Any, answers: Any, as_requests: bool) -> str:
    """Which of the four ways is taken."""
    ways = {"writer": writer is not None, "command": command is not None, "answers": answers is not None,
            "as_requests": as_requests}  # fmt: skip
    names = [name for name, is_given in ways.items() if is_given]
    if len(names) != 1:
        what = "nothing says who writes" if not names else f"{' and '.join(names)} are given"
        raise UserError(what, where="generate", remedy="give a writer, a command, answers or as_requests")
    return names[0]


def _refuse_idle(source: str, values: dict[str, Any]) -> None:
    """Refuse settings of another way than the one that is taken."""
    if source != "as_requests":
        refuse_idle("it is for requests", {"chat_model": values.pop("chat_model")},
                    remedy="leave it out, or set as_requests")  # fmt: skip
    values.pop("chat_model", None)
    if source in ("answers", "as_requests"):
        refuse_idle(f"with {source} nothing is called", values, generate)
    elif source != "command":
        refuse_idle("it is for a command", {"timeout": values["timeout"]}, generate)
    if values["retries"] == 0:
        refuse_idle("no call is repeated", {"backoff": values["backoff"]}, generate)


def _writer(
    source: str, writer: Any, command: Any, batch_size: int, timeout: float
) -> FunctionWriter | CommandWriter | None:
    if source == "writer":
        return FunctionWriter(writer, batch_size)
    return CommandWriter(command, batch_size, timeout) if source == "command" else None


def _cache_beside(target: Path) -> Path:
    return target.with_name(f"{target.stem}.answers.jsonl")


def _check_roles(table: RowTable, template: Template) -> None:
    """Negatives are added to pairs."""
    if template.kind == "negatives" and _positive_column(table) is None:
        raise DataError("negatives are added to pairs, and there is no column of positives", where=table.name,
                        remedy="write triplets in place of negatives, or positives first")  # fmt: skip


def _positive_column(table: RowTable) -> str | None:
    return next((name for name in table.columns if named_role(name) == "positive"), None)


def _take(journal: Journal, answers: Any, missing: Mapping[str, str], report: GenerationReport) -> None:
    """The answers of a file to the prompts that have none yet."""
    fresh, failures = answers_of(answers)
    use = {key: answer for key, answer in fresh.items() if key in missing}
    if missing and not use:
        raise DataError(
            f"none of its {len(fresh):,} answers belongs to the {len(missing):,} requests",
            where="answers",
            remedy="give the same data, template and number as for the requests",
        )
    report.requests, report.failures = len(missing), len(missing) - len(use)
    if failures:
        report.notes.append(f"{failures:,} rows of the answers hold an error in place of an answer")
    if len(fresh) > len(use):
        report.notes.append(f"{len(fresh) - len(use):,} answers belong to no request that is still open")
    journal.put(use)


def _ask(
    journal: Journal, writer: FunctionWriter | CommandWriter, missing: Mapping[str, str], report: GenerationReport,
    options: Mapping[str, Any], max_failures: int, progress: Callable[[int, int], None] | None,
) -> None:  # fmt: skip
    """Have the writer answer the prompts that have no answer yet."""
    prompts = list(missing.items())
    count, failure = 0, ""
    for attempt in run(writer, prompts, **options):
        count += len(attempt.keys)
        report.requests += len(attempt.keys)
        report.calls += attempt.calls
        if attempt.answers is not None:
            journal.put(dict(zip(attempt.keys, attempt.answers, strict=True)))
        else:
            report.failures += len(attempt.keys)
            failure = attempt.failure
        if report.failures > max_failures:
            raise UserError(f"{report.failures:,} requests failed, the last one: {attempt.failure}", where=writer.name,
                            remedy="mend the writer, or raise max_failures")  # fmt: skip
        if progress is not None:
            progress(count, len(prompts))
    if failure:
        report.notes.append(f"{_FAILED}: {report.failures:,}; the last one: {failure}")


def _rows(
    table: RowTable, texts: list[str], key_by_text: Mapping[str, str], journal: Journal, template: Template,
    number: int, report: GenerationReport,
) -> list[dict[str, Any]]:  # fmt: skip
    """The rows of the output, in the order of the source, and their counts."""
    read = triplet_of if template.kind == "triplets" else None
    by_text: dict[str, Answer] = {}
    rejections: Counter[str] = Counter()
    for text, key in key_by_text.items():
        if key in journal:
            answer = journal[key]
            by_text[text] = read(answer, text) if read is not None else texts_of(answer, text, number)
            rejections.update(by_text[text].rejections)
    id_column = next((name for name in CORPUS_IDS if name in table.columns), None)
    positive = _positive_column(table)
    rows: list[dict[str, Any]] = []
    for place, text in enumerate(texts):
        one = by_text.get(text)
        least = 2 if template.kind == "ranking" else 1
        if one is None or len(one.texts) < least:
            report.without += 1
            continue
        rows += _rows_of(table.rows[place], place, text, one.texts, template.kind, number, id_column, positive)
    report.rejections = dict(sorted(rejections.items(), key=lambda item: -item[1]))
    report.accepted = sum(len(one.texts) for one in by_text.values())
    report.rows = len(rows)
    with_texts = [(text, one.texts) for text, one in by_text.items() if one.texts]
    report.examples = [{"text": short(text), "texts": [short(one) for one in several]}
                       for text, several in spread(with_texts, _EXAMPLES)]  # fmt: skip
    return rows


def _rows_of(
    row: Mapping[str, Any], place: int, text: str, texts: list[str], kind: str, number: int, id_column: str | None,
    positive: str | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """What one text gives."""
    if kind == "triplets":
        return [{"anchor": text, "positive": texts[0], "negative": texts[1]}]
    if kind == "ranking":  # the nearer, the higher its score: for objectives that read an order
        size = len(texts)
        scores = [round((size - rank) / size, 6) for rank in range(size)]
        return [{"anchor": text, "positive": texts[0], "negatives": texts[1:], "scores": scores}]
    if kind == "negatives":
        own = {name: cell for name, cell in row.items() if (named_role(name) or "").partition("_")[0] != "negative"}
        columns: dict[str, str | None] = {f"negative_{rank}": None for rank in range(1, number + 1)}
        columns |= {f"negative_{rank}": one for rank, one in enumerate(texts, 1)}
        return [{**own, **columns}]
    # several of one text are no negatives of each other
    tail: dict[str, Any] = {"group": f"g{place}"} if number > 1 else {}
    if kind == "positives":
        return [{"anchor": text, "positive": one, **tail} for one in texts]
    if id_column is not None and row.get(id_column) not in (None, ""):
        tail = {"positive_id": str(row[id_column]), **tail}
    return [{"anchor": one, "positive": text, **tail} for one in texts]
