"""SentEval's transfer sets as the files that the suite `transfer` reads.

    python eval/senteval_files.py SENTEVAL/data/downstream OUT

The folder is what SentEval's or SimCSE's download script leaves: MR, CR, SUBJ, MPQA, SST, TREC, MRPC. Writes
OUT/mr.parquet and so on, with the columns text (or sentence1, sentence2), label and split; rows in SentEval's order,
since its folds depend on it. Blank lines, which SentEval keeps as sentences, are left out (4 in CR, 3 in MPQA). Then
`embedkit eval MODEL --suite transfer --data OUT`, or `evaluation.data=OUT` in a recipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

Row = tuple[str, ...]  # the sentence or two, the label, the split

HALVES = {
    "mr": ("MR/rt-polarity.pos", "MR/rt-polarity.neg"),
    "cr": ("CR/custrev.pos", "CR/custrev.neg"),
    "subj": ("SUBJ/subj.objective", "SUBJ/subj.subjective"),
    "mpqa": ("MPQA/mpqa.pos", "MPQA/mpqa.neg"),
}
SST2 = {"train": "SST/binary/sentiment-train", "dev": "SST/binary/sentiment-dev", "test": "SST/binary/sentiment-test"}
TREC = {"train": "TREC/train_5500.label", "test": "TREC/TREC_10.label"}
MRPC = {"train": "MRPC/msr_paraphrase_train.txt", "test": "MRPC/msr_paraphrase_test.txt"}


def lines_of(path: Path, encoding: str = "utf-8") -> list[str]:
    """The lines that are not blank; SystemExit names a file that is missing or cannot be read."""
    try:
        text = path.read_text(encoding=encoding)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: {error}; give the folder that SentEval's download made, data/downstream") from None
    return [line for line in text.split("\n") if line.strip()]


def half(folder: Path, task: str) -> list[Row]:
    """The first file's sentences with label 1, then the second's with 0; one split."""
    return [
        (" ".join(line.split()), label, "all")
        for name, label in zip(HALVES[task], "10", strict=True)
        for line in lines_of(folder / name, "latin-1")
    ]


def sst2(folder: Path) -> list[Row]:
    """Sentence, tab, 0 or 1."""
    return [
        (*(part.strip() for part in line.rsplit("\t", 1)), split)
        for split, name in SST2.items()
        for line in lines_of(folder / name)
    ]


def trec(folder: Path) -> list[Row]:
    """Class, colon, finer class, space, question."""
    rows = []
    for split, name in TREC.items():
        for line in lines_of(folder / name, "latin-1"):
            label, _, rest = line.partition(":")
            rows.append((" ".join(rest.split()[1:]), label, split))
    return rows


def mrpc(folder: Path) -> list[Row]:
    """A header; then label, two ids, two sentences, separated by tabs."""
    cells = [(line.split("\t"), split) for split, name in MRPC.items() for line in lines_of(folder / name)[1:]]
    return [(first.strip(), second.strip(), label, split) for (label, _, _, first, second), split in cells]


READERS: dict[str, Callable[[Path], list[Row]]] = {
    **{task: lambda folder, task=task: half(folder, task) for task in HALVES}, "sst2": sst2, "trec": trec, "mrpc": mrpc
}  # fmt: skip


def main() -> int:
    """Convert all seven."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="SentEval's data/downstream")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    tables = {task: read(options.folder) for task, read in READERS.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    for task, rows in tables.items():
        names = [*(("sentence1", "sentence2") if task == "mrpc" else ("text",)), "label", "split"]
        columns = [list(column) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(dict(zip(names, columns, strict=True))), options.out / f"{task}.parquet")
        print(f"{task}: {len(rows):,} rows")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
