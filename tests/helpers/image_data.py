"""Small image-text data sets on disk, whole or with faults that are known one by one."""

from __future__ import annotations

import csv
import io
import struct
import tarfile
import zlib
from collections import Counter
from pathlib import Path

from embedkit.data.builtin import sentences as builtin
from embedkit.data.images.pictures import load_picture

TEXT_TOWER = {
    "config": {
        "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 64,
    },
    "tokenizer": "builtin-shapes", "pooling": "mean", "dropout": 0.1,
}  # fmt: skip
IMAGE_TOWER = {"config": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}}
DUAL = {"kind": "dual", "towers": {"dim": 16, "text": TEXT_TOWER, "image": IMAGE_TOWER}}
"""The model section of a recipe: a dual encoder that trains a step in milliseconds."""

REASONS = ("empty image", "not an image", "damaged image", "image too large", "blank text")
"""What `samples` spoils, in turn; a csv can also name a file that is not there."""


def samples(count: int, faults: dict[int, str] | None = None) -> list[tuple[bytes, str]]:
    """PNG file and caption of the first `count` built-in shapes; `faults` says which are spoilt, and how."""
    found = []
    for number, row in zip(range(count), builtin.rows("shapes-train"), strict=False):
        image, text = png(row["image"]), row["captions"][0]
        fault = (faults or {}).get(number)
        image, text = _spoilt(image, text, fault) if fault is not None else (image, text)
        found.append((image, text))
    return found


def png(content: bytes) -> bytes:
    """The same picture as a PNG file."""
    handle = io.BytesIO()
    load_picture(content).image.save(handle, "PNG")
    return handle.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A small PNG file whose header claims `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def _spoilt(image: bytes, text: str, fault: str) -> tuple[bytes, str]:
    changed = {
        "empty image": b"", "not an image": b"<html>no picture</html>", "damaged image": image[: len(image) * 2 // 3],
        "image too large": bomb(),
    }  # fmt: skip
    return changed.get(fault, image), "  " if fault == "blank text" else text


def one_in(count: int, every: int, kinds: tuple[str, ...] = REASONS) -> dict[int, str]:
    """Faults at every `every`-th sample, of all kinds in turn."""
    return {number: kinds[(number // every) % len(kinds)] for number in range(every // 2, count, every)}


def write_shards(folder: Path, content: list[tuple[bytes, str]], per_shard: int) -> str:
    """Tar shards of these samples; the pattern that names all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(-(-len(content) // per_shard))
    for shard in numbers:
        with tarfile.open(folder / f"s-{shard:03d}.tar", "w") as tar:
            for number in range(shard * per_shard, min(len(content), (shard + 1) * per_shard)):
                image, text = content[number]
                for name, data in ((f"{number:06d}.png", image), (f"{number:06d}.txt", text.encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return str(folder / f"s-{{000..{len(numbers) - 1:03d}}}.tar")


def write_csv(folder: Path, content: list[tuple[bytes, str]], missing: tuple[int, ...] = ()) -> str:
    """A csv of paths and captions, and its files, of which those in `missing` are not there."""
    (folder / "files").mkdir(parents=True, exist_ok=True)
    with open(folder / "captions.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "caption"])
        for number, (image, text) in enumerate(content):
            writer.writerow([f"files/{number:05d}.png", text])
            if number not in missing:
                (folder / "files" / f"{number:05d}.png").write_bytes(image)
    return str(folder / "captions.csv")


def count(faults: dict[int, str]) -> Counter[str]:
    """Reason -> how many."""
    return Counter(faults.values())
