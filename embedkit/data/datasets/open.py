"""Training rows from ``data`` in a recipe: sources opened and checked, then held in memory, streamed or sharded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit.data.datasets.samplers import check_sampler
from embedkit.data.schema.kinds import is_modality, is_named
from embedkit.data.schema.targets import target_name
from embedkit.data.sources.class_names import class_names
from embedkit.data.sources.data_source import Source
from embedkit.errors import DataError, RecipeError

if TYPE_CHECKING:
    from embedkit.config.recipe import DataConfig
    from embedkit.data.schema.contract import Contract, Limit
from embedkit.data.datasets.base import TrainingRows
from embedkit.data.datasets.in_memory import HeldRows
from embedkit.data.datasets.sharded import LaneRows, only_shards
from embedkit.data.datasets.streaming import StreamedRows


def open_training(
    config: DataConfig, contract: Contract, *, batch_size: int, seed: int, base_dir: Path = Path(),
    holdout: float = 0.0, fit_batch: bool = False, sources: Sequence[Source] | None = None,
) -> TrainingRows:  # fmt: skip
    """The training rows of a recipe; the first rows of every source are checked before any is read in full.

    Parameters
    ----------
    config : DataConfig
        The section ``data`` of a recipe.
    contract : Contract
        The roles that the method reads.
    batch_size : int
        Rows of a batch over all processes.
    seed : int
        Decides the order, together with epoch and step.
    base_dir : Path
        Where relative paths start.
    holdout : float
        Share of the rows to hold out of training, see `embedkit.data.datasets.holdout`; none of a stream.
    fit_batch : bool
        Take smaller batches where the rows do not fill one, instead of refusing them; not for streams.
    sources : sequence of Source, optional
        The sources of `config` where an early check has opened them; they are not opened again.

    Raises
    ------
    DataError
        A source cannot be used; the message names file, row and column, and the remedy.
    RecipeError
        Settings that contradict each other.

    Examples
    --------
    >>> from embedkit.config.recipe import DataConfig
    >>> from embedkit.data.schema.contract import Contract
    >>> _ = Path("faq.csv").write_text("question,answer\\nHow do I pay?,By card.\\nWhen?,In June.\\n")
    >>> contract = Contract(frozenset({"anchor", "positive"}))
    >>> rows = open_training(DataConfig(train="faq.csv"), contract, batch_size=2, seed=1)
    >>> [(row["anchor"], row["positive"]) for row in next(rows.batches(epoch=0)).rows]
    [('How do I pay?', 'By card.'), ('When?', 'In June.')]
    """
    _check_settings(config)
    if sources is None:
        sources = open_sources(config, contract, Path(base_dir))
    else:
        for source in sources:
            source.bind(*_roles_to_read(config, contract))
    for source in sources:
        source.release_head()
        check_sampler(
            config.sampler, batch_size, config.per_label, source.roles, f"data.train[{source.index}] ({source.name})"
        )
    _check_class_numbers(sources)
    _check_targets(sources, contract)
    _check_kinds(sources)
    if any(source.config.stream for source in sources):
        if only_shards(sources):
            _refuse_documents(sources, config)
            return LaneRows(sources, config, _roles_of(sources, contract), batch_size, seed)
        return StreamedRows(sources, config, _roles_of(sources, contract), batch_size, seed)
    return HeldRows(
        sources, config, _roles_of(sources, contract), batch_size, seed, holdout=holdout, fit_batch=fit_batch
    )


def open_sources(config: DataConfig, contract: Contract, base_dir: Path = Path()) -> list[Source]:
    """The sources of a recipe: parts found, columns bound, first rows checked; see `open_training`.

    Examples
    --------
    >>> from embedkit.config.recipe import DataConfig
    >>> from embedkit.data.schema.contract import Contract
    >>> _ = Path("faq.csv").write_text("question,answer\\nHow do I pay?,By card.\\n")
    >>> [source] = open_sources(DataConfig(train="faq.csv"), Contract(frozenset({"anchor", "positive"})))
    >>> print(*source.notes)
    data.train[0] (faq.csv): question is the anchor, answer is the positive (set 'columns' to change that)
    """
    requires, reads, limits = _roles_to_read(config, contract)
    return [
        Source(source, config, index, requires=requires, reads=reads, limits=limits, base_dir=base_dir)
        for index, source in enumerate(config.train)
    ]


def _roles_to_read(
    config: DataConfig, contract: Contract
) -> tuple[frozenset[str], frozenset[str], Mapping[str, Limit]]:
    """Roles that every source must have, those that are read by method and sampler, and limits of their values."""
    of_sampler = {
        "by-label": {"label"}, "no-duplicates": {"group"}, "contiguous": {"document_id", "position"},
    }.get(config.sampler, set())  # fmt: skip
    if "sentences" in contract.roles:  # its rows are documents, which check_sampler refuses
        of_sampler -= {"document_id", "position"}
    of_sampler |= {"label"} if config.binding else set()
    return frozenset(contract.requires), frozenset(contract.roles) | of_sampler, contract.limits


def _roles_of(sources: Sequence[Source], contract: Contract) -> frozenset[str]:
    """The roles that any source has and the method reads; explode makes three of them itself."""
    own = {"anchor", "positive", "group"} if any(source.config.explode for source in sources) else set()
    return contract.roles & own.union(*(source.roles for source in sources))


def _check_class_numbers(sources: Sequence[Source]) -> None:
    """Refuse files in whose label columns one number stands for classes of different names."""
    first: tuple[str, list[str]] | None = None
    for source in sources:
        column = source.column_of("label")
        for part in source.parts if column is not None else ():
            names = class_names(part.file).get(column or "") if part.file is not None else None
            if not names:
                continue
            if first is None:
                first = (part.name, names)
            for number, (one, other) in enumerate(zip(names, first[1], strict=False)):
                if one != other:
                    raise DataError(
                        f"class {number} is {one!r} here and {other!r} in {first[0]}", where=f"{part.name} {column}",
                        remedy="number the classes of all files alike: cast_column with one ClassLabel in datasets",
                    )  # fmt: skip


def _refuse_documents(sources: Sequence[Source], config: DataConfig) -> None:
    """Shards are read sample by sample, so documents are neither put together nor taken apart there."""
    for source in sources:
        if source.documents is not None or config.sampler == "contiguous":
            raise RecipeError(
                "streamed shards keep no order of sentences", where=f"data.train[{source.index}].stream",
                remedy="leave 'stream' out, or save the documents as jsonl or parquet",
            )  # fmt: skip


def _check_targets(sources: Sequence[Source], contract: Contract) -> None:
    """Refuse a target or modality that no source has, and vectors of a target of two sizes in two sources."""
    for role in sorted(filter(is_named, contract.roles)):
        name, kind = target_name(role), role.partition(":")[0]
        if not any(role in source.roles for source in sources):
            what = f"modality {name!r}" if is_modality(role) else f"target {name!r} ({kind})"
            raise DataError(
                f"no source has a column for {what}", where="data.train",
                remedy=f"map one with columns: {{COLUMN: {name}}}",
            )  # fmt: skip
        widths = [(source.widths[role], source.name) for source in sources if source.widths.get(role)]
        for width, place in widths[1:]:
            if width != widths[0][0]:
                raise DataError(
                    f"target {name!r} has {width} numbers, and {widths[0][0]} in {widths[0][1]}", where=place,
                    remedy="give all rows the same length",
                )  # fmt: skip


def _check_kinds(sources: Sequence[Source]) -> None:
    """Refuse sources of which one has texts where another has vectors, or vectors of another size."""
    first: dict[str, tuple[str, int | None, str]] = {}
    for source in sources:
        for role, kind in source.kinds.items():
            width = source.vector_widths.get(role)
            here = (kind, width, source.name)
            before = first.setdefault(role, here)
            if kind != before[0]:
                what = f"{role} is a {kind} here, and a {before[0]} in {before[2]}"
                raise DataError(what, where=source.name, remedy="give all sources one kind of it")
            if None not in (width, before[1]) and width != before[1]:
                what = f"the vectors of {role} have {width} numbers, those of {before[2]} {before[1]}"
                raise DataError(what, where=source.name, remedy="give all rows the same length")


def _check_settings(config: DataConfig) -> None:
    streaming = any(source.stream for source in config.train)
    if config.sampler == "contiguous" and config.mixing != "concatenate":
        raise RecipeError(
            f"the sampler contiguous keeps documents whole, which mixing {config.mixing!r} does not",
            where="data.mixing", remedy="use 'concatenate', or another sampler",
        )  # fmt: skip
    if config.sampler == "contiguous" and streaming and len(config.train) > 1 and config.batches_from == "mixed":
        raise RecipeError(
            "streams of several sources are mixed row by row, and the sampler contiguous needs rows in order",
            where="data.batches_from", remedy="set data.batches_from: one-source, or leave 'stream' out",
        )  # fmt: skip
    if config.mixing == "temperature" and streaming:
        raise RecipeError(
            "mixing by temperature needs the sizes of the sources, and a stream has none",
            where="data.mixing",
            remedy="use 'weighted' with a weight in each source",
        )
    if config.shuffle == "blocks" and (streaming or config.mixing != "concatenate"):
        raise RecipeError(
            "blocks are shuffled where files are read once an epoch, each row as often as others", where="data.shuffle",
            remedy="leave it out" if streaming else "set data.mixing: concatenate, or leave it out",
        )  # fmt: skip
    if config.binding and streaming:
        raise RecipeError("a stream has no fixed rows of each label", where="data.binding", remedy="leave it out")
    for index, source in enumerate(config.train):
        if source.weight is not None and config.mixing != "weighted":
            raise RecipeError(
                f"a weight is not read by mixing {config.mixing!r}",
                where=f"data.train[{index}].weight",
                remedy="set data.mixing: weighted, or remove the weight",
            )
