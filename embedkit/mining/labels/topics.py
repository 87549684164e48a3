"""Topics of texts as shares: what a topic model (LDA) of the rows' own texts makes of each, for heads on images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from embedkit.errors import DataError, UserError, need
from embedkit.mining.labels.nouns import caption_column
from embedkit.mining.output import check_output
from embedkit.mining.rows.result import RowsResult, finish
from embedkit.mining.rows.table import read_table

_SHOWN, _WORDS = 10, 6


@dataclass
class TopicsReport:
    """The account of a call of `embedkit.mining.labels.topics.label_topics`.

    Attributes
    ----------
    rows, dropped : int
        Rows of the output, and rows left out since their texts have no word of the vocabulary.
    vocabulary : int
        Words that the model counts.
    topics : list of (float, list of str)
        Each topic: the mean of its shares, and its heaviest words; the largest first, as in the column.
    perplexity : float
        Of the model on the rows it was made from.
    notes : list of str
        How columns were read.

    Examples
    --------
    >>> next(TopicsReport(rows=2, vocabulary=3, topics=[(1.0, ["dog"])], perplexity=2.0).lines())
    '2 rows with shares of 1 topics of 3 words, perplexity 2.0'
    """

    rows: int = 0
    dropped: int = 0
    vocabulary: int = 0
    topics: list[tuple[float, list[str]]] = field(default_factory=list)
    perplexity: float = 0.0
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The report for people, line by line."""
        count = len(self.topics)
        yield (
            f"{self.rows:,} rows with shares of {count} topics of {self.vocabulary:,} words, "
            f"perplexity {self.perplexity:.1f}"
        )
        if self.dropped:
            yield f"{self.dropped:,} rows are left out: their texts have no word that the topics are made of"
        for share, words in self.topics[:_SHOWN]:
            yield f"{100 * share:.1f} %: {', '.join(words)}"
        if count > _SHOWN:
            yield f"... and {count - _SHOWN} smaller ones"


def label_topics(
    data: Any, topics: int = 40, *, output: str | Path | None = None, overwrite: bool = False,
    column: str | None = None, name: str = "topics", least: int = 2, most: float = 0.5, steps: int = 20, seed: int = 0,
    split: str | None = None, where: Mapping[str, Any] | None = None, limit: int | None = None,
) -> RowsResult[TopicsReport]:  # fmt: skip
    """The rows with the shares of topics of their texts as a column of lists, for a head of kind "degrees".

    Latent Dirichlet allocation (Blei, Ng and Jordan 2003) by scikit-learn's batch inference, as TextTopicNet has it for
    articles (Gomez et al. 2017, section 3.1: 40 topics, words of 20 texts at least and of half at most). English
    function words do not count. The same rows and seed give the same shares. Topics are numbered by size.

    Parameters
    ----------
    data : str, Path or object
        Whatever `embedkit.train` reads, with a text, or a list of texts, in a row.
    topics : int
        How many, 2 at least.
    output, overwrite, split, where, limit
        As in `embedkit.label`.
    column : str, optional
        The column of the texts.
    name : str
        The new column: lists of `topics` numbers that sum to 1.
    least : int
        Rows that a word must be in.
    most : float
        Share of the rows that a word may be in at most.
    steps, seed : int
        Steps of the inference, and the seed of its start.

    Raises
    ------
    UserError
        A setting is out of range; the output exists.
    DataError
        The rows cannot be read, have the column already, or no word is left.
    MissingExtraError
        scikit-learn is not installed.

    Examples
    --------
    >>> rows = [{"image": f"{n}.png", "caption": text} for n, text in enumerate(["a dog barks", "dogs and a dog"] * 4)]
    >>> result = label_topics(rows, topics=2, least=1, most=1.0)
    >>> len(result.rows), [round(sum(row["topics"]), 6) for row in result.rows[:2]]
    (8, [1.0, 1.0])
    """
    for setting, value, low in (("topics", topics, 2), ("least", least, 1), ("steps", steps, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise UserError(f"{value!r} is no whole number from {low} on", where=setting, remedy="give another number")
    if not 0.0 < most <= 1.0:
        raise UserError(f"{most!r} is no share", where="most", remedy="give a number above 0, up to 1")
    need("scikit-learn", "eval", "topics of texts", module="sklearn")
    target = None if output is None else check_output(output, overwrite, data)
    table = read_table(data, split=split, where=where, limit=limit)
    captions = caption_column(table, column, name)
    texts = [_text_of(row.get(captions)) for row in table.rows]
    counts, words = _counted(texts, least, most, f"{table.name}, column {captions!r}")
    shares, heaviest, perplexity = _model(counts, words, topics, steps, seed)
    some = counts.sum(axis=1).nonzero()[0]
    place = {int(row): number for number, row in enumerate(some)}
    rows = [
        {**row, name: shares[place[number]].tolist()}
        for number, row in enumerate(table.moved(target, None)) if number in place
    ]  # fmt: skip
    report = TopicsReport(
        rows=len(rows), dropped=len(texts) - len(rows), vocabulary=len(words), perplexity=perplexity,
        topics=list(zip(shares.mean(axis=0).tolist(), heaviest, strict=True)), notes=table.notes,
    )  # fmt: skip
    return finish(rows, report, target)


def _text_of(cell: Any) -> str:
    return cell if isinstance(cell, str) else "\n".join(text for text in cell or () if isinstance(text, str))


def _counted(texts: list[str], least: int, most: float, where: str) -> tuple[Any, list[str]]:
    """How often each word is in each text, a sparse matrix, and the words."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(stop_words="english", min_df=least, max_df=float(most))
    try:
        counts = counter.fit_transform(texts)
    except ValueError as error:  # nothing is left
        raise DataError(f"no word is in {least} rows and in at most {most:.0%} of them", where=where,
                        remedy="lower --least, raise --most, or name the texts with --column") from error  # fmt: skip
    return counts, counter.get_feature_names_out().tolist()


def _model(counts: Any, words: list[str], topics: int, steps: int, seed: int) -> tuple[Any, list[list[str]], float]:
    """Shares (N', K) of the texts that have words, the heaviest words of each topic, and the perplexity."""
    import numpy as np
    from sklearn.decomposition import LatentDirichletAllocation

    model = LatentDirichletAllocation(topics, max_iter=steps, learning_method="batch", random_state=seed)
    some = counts[counts.sum(axis=1).nonzero()[0]]
    shares = model.fit_transform(some)
    order = np.argsort(-shares.mean(axis=0), kind="stable")
    heaviest = [[words[w] for w in np.argsort(-model.components_[k], kind="stable")[:_WORDS]] for k in order]
    return shares[:, order], heaviest, float(model.perplexity(some))
