"""The same broken data sets given to embedkit, to sentence-transformers and to open_clip_train: who says what is wrong?

    python eval/benchmarks/broken_data.py [--match TEXT] [--json FILE]        # from the root of the repository

The data sets are those of ``python -m tests.faults data images``: eight pairs of texts, or eight images with captions,
with one fault each. Every tool trains two steps on four rows, on the CPU, with a tiny random model:

- embedkit: ``embedkit train`` with the recipe of the case.
- sentence-transformers: ``datasets.load_dataset`` of the file, then `SentenceTransformerTrainer` with
  `MultipleNegativesRankingLoss` (`CoSENTLoss`, `CosineSimilarityLoss` and `SoftmaxLoss` for cases with scores or
  labels); columns as they stand in the file, since the trainer reads them by position.
- open_clip_train: two batches of its own csv or webdataset loader (`get_csv_dataset`, `get_wds_dataset`). For the
  tables of texts the anchors are replaced by the paths of good images, so that the positives are captions.
  (webdataset 1.0 ends a shard with an empty record, on which the loader of open_clip_train 3.3 stops with KeyError
  'fname' whatever is in the shard; here it is told to leave that record out.)

"-" is written where a tool does not read that kind of file or role. What it did is called by these rules, the same for
all three; they are applied by the code below (`judge`), not by hand.

clear error
    It ends with an exception whose message (with those of its causes) names the file, or holds a word of advice
    (`ADVICE`), and, where the fault has a row or column, that row ("5", as a line or row of the file) or column.
accounted skip
    It goes on without the bad row, and a warning or log line names the file, key or number of what was left out.
unclear error
    It ends with any other exception, or does not end within 60 s of processor time.
silent
    It trains on, and no warning or log line names the file, row or column; of data that is legal and looks like a
    mistake ("suspicious") and of data that is legal and odd ("legal") when it has read something else than what stands
    in the file, or pixels that differ from those that a viewer shows by more than the tolerance of the case.
warned
    Suspicious data: it trains, and a warning or log line names the column, role or count.
right
    What it trains on is what stands in the file: of legal data, and of a file that is odd as a whole and holds the
    eight good pairs all the same.
refused
    Legal data: it ends with an exception.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.faults import data_images, data_legal, data_refused, data_shards
from tests.faults.data_frame import TEXTS, Broken, all_rows, opened, recipe, write
from tests.faults.frame import World, command

TOOLS = ("embedkit", "sentence-transformers", "open_clip_train")
ADVICE = re.compile(r"\b(should|must|please|instead|did you mean|expected|try|use|pass|set|put)\b", re.IGNORECASE)
KINDS = {"csv": "csv", "tsv": "csv", "jsonl": "json", "parquet": "parquet", "txt": "text"}
SECONDS = 60


@dataclass(frozen=True)
class Question:
    """A data set, what kind of case it is ("broken", "suspicious", "legal"), and what stands in the file."""

    kind: str
    broken: Broken
    rows: list[dict[str, Any]] | None = None
    pixels: data_images.Pixels | None = None

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return self.broken.name if self.kind == "broken" else f"{self.kind}: {self.broken.name}"

    @property
    def images(self) -> bool:
        """Whether it is image-text data."""
        return self.broken.change.get("method") == "clip"


@dataclass
class Seen:
    """What a tool did: the exception that ended it, what it said meanwhile, and the texts or pixels that it read."""

    error: BaseException | None
    said: str
    texts: list[tuple[str, ...]] | None = None
    pixels: list[Any] | None = None


def questions() -> list[Question]:
    """All data sets."""
    found = [Question("broken", broken) for broken in data_refused.ALL]
    found += [Question("suspicious", broken) for broken in data_legal.WARNED]
    found += [Question("legal", broken, rows) for broken, rows, _ in data_legal.ACCEPTED]
    found += [Question("broken", broken) for broken in (*data_images.REFUSED, *data_shards.REFUSED)]
    found += [Question("legal", broken, pixels=pixels) for broken, pixels, _ in data_images.LEGAL]
    return found


def judge(question: Question, seen: Seen) -> str:
    """One of the words of the table, by the rules above."""
    file = Path(next(iter(question.broken.files), "t.tsv")).name
    names = {Path(name).name for name in [*question.broken.files, str(question.broken.source.get("path", file))]}
    names |= {file, *re.findall(r"[\w-]+\.\w+", _places(question))}
    if seen.error is not None and question.kind == "legal":
        return "refused"
    if seen.error is not None:
        text = "\n".join(_messages(seen.error))
        located = any(part in text for part in names) or ADVICE.search(text) is not None
        return "clear error" if located and _names_place(question, text) else "unclear error"
    if question.kind == "legal":
        return "right" if _read_right(question, seen) else "silent"
    if question.kind == "suspicious":
        quoted = re.findall(r"'([^']+)'", _places(question))
        told = any(word in seen.said for word in quoted) or re.search(r"\b(anchor|positive)s?\b", seen.said)
        return "warned" if told else "silent"
    if not question.images and question.broken.files and _texts_right(seen.texts, TEXTS):
        return "right"
    keys = {key for part in question.broken.parts for key in re.findall(r"\d{4}", part)}
    return "accounted skip" if any(word in seen.said for word in names | keys) else "silent"


def _places(question: Question) -> str:
    return " ".join(question.broken.parts)


def _names_place(question: Question, text: str) -> bool:
    """Whether a message names the row or column that the case has; true where it has none."""
    parts = question.broken.parts
    rows = [part.rsplit(":", 1)[1] for part in parts if re.search(r":\d+$", part)]
    columns = re.findall(r"'(\w+)'", " ".join(parts))
    if not rows and not columns:
        return True
    by_row = any(re.search(rf"(:|\b(line|row)s?\D{{0,12}}){row}\b", text, re.IGNORECASE) for row in rows)
    return by_row or any(re.search(rf"\b{re.escape(column)}\b", text) for column in columns)


def _messages(error: BaseException) -> Iterator[str]:
    at: BaseException | None = error
    for _ in range(9):
        if at is None:
            return
        yield f"{type(at).__name__}: {at}"
        at = at.__cause__ or at.__context__


def _read_right(question: Question, seen: Seen) -> bool:
    if question.pixels is not None:
        import numpy as np

        wanted, off = question.pixels.wanted.astype(int), question.pixels.off
        read = [found.astype(int) for found in seen.pixels or () if found.shape == wanted.shape]
        return seen.pixels is None or any(np.abs(found - wanted).max() <= off for found in read)
    if seen.texts is None or question.rows is None:
        return True
    return _texts_right(seen.texts, [(row["anchor"], row["positive"]) for row in question.rows])


def _texts_right(texts: list[tuple[str, ...]] | None, pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether exactly these pairs were read; of a tool that reads captions only, no more than their second texts."""
    if not texts:
        return False
    if all(len(row) == 1 for row in texts):
        return Counter(row[0] for row in texts) == Counter(positive for _, positive in pairs)
    return Counter(tuple(row[:2]) for row in texts) == Counter(pairs)


# -- the tools ------------------------------------------------------------------------------------------------------


def embedkit(question: Question, folder: Path) -> Seen | None:
    """``embedkit train``."""
    import numpy as np

    from embedkit.data.images.pictures import load_picture, to_rgb

    path = recipe(World(folder), question.broken, train={"batch_size": 4, "max_steps": 2} if _usual(question) else {})
    ended = command("train", path)
    if ended.code:
        return Seen(RuntimeError(ended.err.strip().splitlines()[-1] if ended.err.strip() else ""), ended.err)
    if question.kind != "legal":
        return Seen(None, ended.err)
    if question.rows is not None:
        texts = [(row["anchor"], row["positive"]) for row in all_rows(opened(path))]
        return Seen(None, ended.err, texts)
    file = folder / "data" / data_images.SPOILT
    read = [np.asarray(to_rgb(load_picture(str(file)).image))] if file.exists() else None
    return Seen(None, ended.err, None, read)


def _usual(question: Question) -> bool:
    return "train" not in question.broken.change


def sentence_transformers(question: Question, folder: Path) -> Seen | None:
    """`load_dataset` and `SentenceTransformerTrainer`; None for data that it has no loader or loss for."""
    change, source = question.broken.change, question.broken.source
    objective = change.get("objective", {}).get("name") if isinstance(change.get("objective"), dict) else None
    if question.images or objective in ("margin-mse", "supcon") or set(source) - {"path"} or "data" in change:
        return None
    if change.get("method") not in (None, {"name": "views"}, {"name": "consert-sup"}, "simcse-sup"):
        return None
    if question.rows and any("negatives" in row or "label" in row for row in question.rows):
        return None
    file = folder / "data" / str(source.get("path") or next(iter(question.broken.files), "t.tsv"))
    files = sorted(str(path) for path in file.iterdir()) if file.is_dir() else [str(file)]
    ending = Path(files[0]).name.removesuffix(".gz").rpartition(".")[2]
    if ending not in KINDS:
        return None
    from datasets import load_dataset

    options = {"delimiter": "\t"} if ending == "tsv" else {}
    rows = load_dataset(
        KINDS[ending], data_files=files, split="train", cache_dir=str(folder / "cache"), keep_in_memory=True, **options
    )
    _fit(
        rows,
        objective or ("softmax" if change.get("method") == {"name": "consert-sup"} else None),
        folder,
        _batch_size(question),
    )
    texts = [tuple(map(str, row.values())) if len(row) > 1 else tuple(row.values()) for row in rows.to_list()]
    return Seen(None, "", [tuple(value if value is not None else "None" for value in row) for row in texts])


def _batch_size(question: Question) -> int:
    return int(question.broken.change.get("train", {}).get("batch_size", 4))


def _fit(rows: Any, objective: str | None, folder: Path, size: int) -> None:
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers import losses as st_losses

    model = SentenceTransformer(modules=_modules(folder))
    chosen: Callable[[Any], Any] = {
        "cosent": st_losses.CoSENTLoss, "cosine-mse": st_losses.CosineSimilarityLoss,
        "softmax": lambda m: st_losses.SoftmaxLoss(m, m.get_embedding_dimension(), 3),
    }.get(str(objective), st_losses.MultipleNegativesRankingLoss)  # fmt: skip
    settings = SentenceTransformerTrainingArguments(
        str(folder / "st"), max_steps=2, per_device_train_batch_size=size, use_cpu=True, save_strategy="no",
        report_to=[], disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    SentenceTransformerTrainer(model=model, args=settings, train_dataset=rows, loss=chosen(model)).train()


def _modules(folder: Path) -> list[Any]:
    """A BERT of one layer with a vocabulary of letters, and mean pooling."""
    import string

    import transformers
    from sentence_transformers.models import Pooling, Transformer

    place = folder / "tiny"
    place.mkdir()
    letters = [*string.ascii_lowercase, *string.digits]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (place / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(place / "vocab.txt")).save_pretrained(place)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)
    transformers.BertModel(config).save_pretrained(place)
    encoder = Transformer(str(place), max_seq_length=64)
    return [encoder, Pooling(16, "mean")]


def open_clip_train(question: Question, folder: Path) -> Seen | None:
    """Two batches of its csv or webdataset loader; None for other kinds of file."""
    import numpy as np
    import torch
    import webdataset.tariterators
    from open_clip_train import data as loader

    loader.tar_file_expander = partial(webdataset.tariterators.tar_file_expander, eof_value=None)  # see above
    pixels: list[Any] = []
    texts: list[tuple[str, ...]] = []

    def preprocess(image: Any) -> Any:
        if Path(getattr(image, "filename", "")).name == Path(data_images.SPOILT).name:
            pixels.append(np.asarray(image.convert("RGB")))  # as the library's own transform does
        return torch.zeros(3)

    def tokenizer(text: Any) -> Any:
        texts.extend((one,) for one in ([text] if isinstance(text, str) else text))
        return torch.zeros(1, 4)

    args = SimpleNamespace(
        batch_size=_batch_size(question), workers=0, world_size=1, distributed=False, seed=0, csv_separator=",",
        csv_img_key="image", csv_caption_key="caption", train_num_samples=8, dataset_resampled=False,
        train_data_upsampling_factors=None,
    )  # fmt: skip
    data = folder / "data"
    first = str(question.broken.source.get("path") or next(iter(question.broken.files), "t.tsv"))
    if first.endswith(".tar"):
        args.train_data = str(data / first)
        given = loader.get_wds_dataset(args, preprocess, True, tokenizer=tokenizer)
    elif first in ("t.csv", "t.tsv") and (question.images or _as_captions(question, data)):
        args.train_data = str(data / first)
        args.csv_separator = "\t" if first.endswith("tsv") else ","
        if question.broken.source.get("columns"):
            args.csv_img_key, args.csv_caption_key = "caption", "image"
        given = loader.get_csv_dataset(args, preprocess, True, tokenizer=tokenizer)
    else:
        return None
    here = Path.cwd()
    os.chdir(data)  # paths in its csv start there
    try:
        batches = list(given.dataloader)
    finally:
        os.chdir(here)
    if not batches:
        raise RuntimeError("no batch, and no word")
    return Seen(None, "", texts, pixels)


def _as_captions(question: Question, data: Path) -> bool:
    """Rewrite a table of texts as one of images and captions; False where the fault is not one of texts."""
    broken = question.broken
    if set(broken.source) - {"path"} or question.kind == "suspicious" or {"objective", "data"} & set(broken.change):
        return False
    for number in range(8):
        write(data, {f"files/{number}.png": data_images.encoded(data_images.photo(number))})
    name = next(iter(broken.files), None)
    if name is None:
        return True
    content = (data / name).read_bytes()
    anchors = {anchor for anchor, _ in TEXTS} | {row["anchor"] for row in question.rows or ()} | {"a dog"}
    for number, anchor in enumerate(sorted(anchors, key=len, reverse=True)):  # one may begin like another
        content = content.replace(anchor.encode(), f"files/{number % 8}.png".encode())
    (data / name).write_bytes(content.replace(b"anchor", b"image").replace(b"positive", b"caption"))
    return True


# -- the table ------------------------------------------------------------------------------------------------------


def ask(tool: Callable[[Question, Path], Seen | None], question: Question) -> tuple[str, str]:
    """The word of the table, and the last line that was said."""
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    logging.getLogger().addHandler(handler)
    before = signal.signal(signal.SIGPROF, _too_long)
    with (
        tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard),
        warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # which names every file that is opened
        folder = Path(place)
        write(folder / "data", question.broken.files)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            seen = tool(question, folder)
        except Exception as error:
            seen = Seen(error, "")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
            logging.getLogger().removeHandler(handler)
    if seen is None:
        return "-", ""
    seen.said += heard.getvalue()
    said = " | ".join(_messages(seen.error)) if seen.error is not None else seen.said[-200:]
    return judge(question, seen), " ".join(said.replace(place, "").split())[:300]


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError(f"not ended after {SECONDS} s of processor time")


def main() -> int:
    """Print the table and the totals."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--match", default="", help="only cases whose name holds this")
    parser.add_argument("--json", type=Path, help="also write every answer here, with what was said")
    options = parser.parse_args()
    tools = dict(zip(TOOLS, (embedkit, sentence_transformers, open_clip_train), strict=True))
    totals: dict[str, Counter[str]] = {tool: Counter() for tool in TOOLS}
    answers = []
    print("| case | " + " | ".join(TOOLS) + " |\n|---|---|---|---|", flush=True)
    for question in questions():
        if options.match not in question.name:
            continue
        row = {tool: ask(function, question) for tool, function in tools.items()}
        answers.append({"case": question.name, **{tool: list(answer) for tool, answer in row.items()}})
        for tool, (word, _) in row.items():
            totals[tool][word] += 1
        print(f"| {question.name} | " + " | ".join(word for word, _ in row.values()) + " |", flush=True)
    for tool, counts in totals.items():
        asked = counts.total() - counts.pop("-", 0)
        print(f"\n{tool}, of {asked}: " + ", ".join(f"{count} {word}" for word, count in counts.most_common()))
    if options.json is not None:
        options.json.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
