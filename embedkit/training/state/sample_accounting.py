"""The account of samples: every row that was drawn is trained on or listed as skipped, also over stops and resumes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedkit.errors import CheckpointError
from embedkit.system.disk import disk_error, write_durably

if TYPE_CHECKING:
    from embedkit.data import TrainingRows
    from embedkit.training.loop.batches import StepBatch
    from embedkit.training.parallel.distributed import World

MANIFEST, TOTALS = "quarantine.jsonl", "samples.json"


@dataclass
class Samples:
    """What became of the rows that this process has drawn.

    Attributes
    ----------
    trained_rows : int
        Rows of finished steps.
    skips : Counter
        Reason -> rows dropped from these steps.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.training.parallel.distributed import World
    >>> samples = Samples()
    >>> samples.add(SimpleNamespace(ids=[4, 7], bad_rows=[SimpleNamespace(reason="missing image")]))
    >>> samples.gathered(World())
    [{'trained': 2, 'skipped': {'missing image': 1}}]
    """

    trained_rows: int = 0
    skips: Counter[str] = field(default_factory=Counter)

    def add(self, batch: StepBatch) -> None:
        """Count a finished step."""
        self.trained_rows += len(batch.ids)
        self.skips.update(bad.reason for bad in batch.bad_rows)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Samples:
        """From the plain values in a checkpoint."""
        return cls(int(values["trained"]), Counter(values["skipped"]))

    def gathered(self, world: World) -> list[dict[str, Any]]:
        """The plain values of every process, on every process."""
        text = json.dumps({"trained": self.trained_rows, "skipped": dict(self.skips)})
        mine = torch.tensor(list(text.encode()), dtype=torch.uint8, device=world.device)
        counts = world.counts(len(mine))
        parts = world.gather(mine, counts).cpu().split(counts)
        return [json.loads(bytes(part.tolist())) for part in parts]


class Ledger:
    """Writes the account of a run into its folder.

    ``samples.json``, whole at every checkpoint: ``step``; ``drawn`` = ``trained`` + the sum of ``skipped`` (reason ->
    rows) over all steps so far; and, from reading the data, ``read`` = ``kept`` + ``filtered`` + the sum of ``dropped``
    (null for streams of shards, where everything that is read is drawn). ``quarantine.jsonl``, when asked for: one line
    a bad row with ``step`` (null for one that reading left out), ``id``, ``where``, ``reason`` and ``what``; while the
    run is in progress each process has a file of its own.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.data.images.decoding import Skipped
    >>> from embedkit.training.parallel.distributed import World
    >>> ledger = Ledger(Path("."), World(), list_rows=True)
    >>> bad = Skipped(7, 3, "captions.csv:8", "missing image", "there is no image file")
    >>> ledger.add(12, SimpleNamespace(bad_rows=[bad]))
    >>> print(Path("quarantine.0.jsonl").read_text())
    {"step": 12, "id": 7, "place": 3, "where": "captions.csv:8", "reason": "missing image", ...}
    """

    def __init__(self, folder: Path, world: World, list_rows: bool) -> None:
        self._folder, self._world, self._lists = folder, world, list_rows
        self._file = folder / f"quarantine.{world.rank}.jsonl"

    def rewind(self, step: int) -> None:
        """Forget what came after `step`, which a resumed run does again."""
        manifest = self._folder / MANIFEST
        if self._world.is_main and manifest.is_file():  # of a run that had ended
            ended = [line for line, at in _listed(manifest) if at is not None]
            write_durably(self._file, "".join(ended).encode())
        if self._file.is_file():
            lines = [line for line, at in _listed(self._file) if at is not None and at <= step]
            write_durably(self._file, "".join(lines).encode())

    def add(self, step: int, batch: StepBatch) -> None:
        """List the bad rows of a finished step."""
        if self._lists and batch.bad_rows:
            text = "".join(json.dumps({"step": step, **asdict(bad)}) + "\n" for bad in batch.bad_rows)
            try:
                with open(self._file, "a", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:  # a row that is neither trained on nor listed would be lost
                raise disk_error(error, self._file, "bad rows cannot be listed", "give another train.output") from error

    def write(self, step: int, samples: list[dict[str, Any]], rows: TrainingRows) -> None:
        """Write the totals of all processes; on the main one."""
        if not self._world.is_main:
            return
        used_rows = sum(values["trained"] for values in samples)
        skips: Counter[str] = sum((Counter(values["skipped"]) for values in samples), Counter())
        totals = {
            "step": step, "drawn": used_rows + skips.total(), "trained": used_rows,
            "skipped": dict(sorted(skips.items())), **_reading(rows),
        }  # fmt: skip
        write_durably(self._folder / TOTALS, (json.dumps(totals, indent=1) + "\n").encode())

    def finish(self, rows: TrainingRows) -> None:
        """Join the lists of all processes into one, in the order of steps and places; call it on every process."""
        self._world.barrier()
        if not (self._lists and self._world.is_main):
            return
        files = [self._folder / f"quarantine.{rank}.jsonl" for rank in range(self._world.size)]
        texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
        lines = [json.loads(line) for text in texts for line in text.splitlines()]
        reading = [
            {"step": None, "id": None, "place": None, "where": where, "reason": reason, "what": what}
            for where, reason, what in rows.left_out()
        ]
        lines.sort(key=lambda line: (line["step"], line["place"]))
        text = "".join(json.dumps(line) + "\n" for line in [*reading, *lines])
        write_durably(self._folder / MANIFEST, text.encode())
        for file in files:
            file.unlink(missing_ok=True)


def _listed(path: Path) -> Iterator[tuple[str, float | None]]:
    """The whole lines of a list of bad rows, with their steps.

    Raises
    ------
    CheckpointError
        A line is not one of embedkit's.
    """
    for number, raw in enumerate(path.read_bytes().split(b"\n")[:-1], 1):  # a kill can cut the last line short
        try:
            line = raw.decode("utf-8")
            step = json.loads(line)["step"]
            yield line + "\n", None if step is None else float(step)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise CheckpointError(
                "is no line of the list of bad rows", where=f"{path}:{number}", remedy="fix or remove this line"
            ) from error


def _reading(rows: TrainingRows) -> dict[str, Any]:
    sources = rows.summary()["sources"]
    if not all("read" in source for source in sources):
        return {"read": None, "kept": None, "filtered": None, "dropped": None}
    dropped: Counter[str] = sum((Counter(source["dropped"]) for source in sources), Counter())
    read, filtered = (sum(source[key] for source in sources) for key in ("read", "filtered"))
    return {
        "read": read, "kept": read - filtered - dropped.total(), "filtered": filtered,
        "dropped": dict(sorted(dropped.items())),
    }  # fmt: skip
