"""What faults in the data cost: image-text training over clean data and over data with one sample in twenty spoilt.

    python eval/benchmarks/image_faults.py [--rounds 5] [--steps 12] [--batch 64] [--samples 1200] [--smoke]
    python eval/benchmarks/image_faults.py --write FOLDER      # data and recipes only, for kill.py --recipe

Two kinds of data, tar shards that are streamed and a csv of paths, each clean and with faults (empty, cut short, no
image, a decompression bomb, an empty caption, and in the csv a missing file). Clean and faulty runs take turns; the
figure is samples drawn a second of training, bad ones included, and the ratio of the medians should be above 0.97. The
account of each faulty run is checked to the unit against the faults that were put in.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import struct
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

FAULTS = ("empty image", "not an image", "damaged image", "image too large", "blank text", "missing image")
SIDE = 256


def samples(count: int) -> list[tuple[bytes, str]]:
    """JPEG files of the built-in shapes, enlarged, and their captions."""
    from PIL import Image

    from embedkit.data.builtin import sentences as builtin
    from embedkit.data.images.pictures import load_picture

    made = []
    for _, row in zip(range(count), builtin.rows("shapes-train"), strict=False):
        handle = io.BytesIO()
        load_picture(row["image"]).image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(handle, "JPEG", quality=90)
        made.append((handle.getvalue(), row["captions"][0]))
    return made


def bomb() -> bytes:
    """A PNG file of a few bytes that claims 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def spoilt(content: list[tuple[bytes, str]], kinds: tuple[str, ...]) -> tuple[list[tuple[bytes, str]], Counter[str]]:
    """One sample in twenty spoilt, in turn, and how many of each kind."""
    made, count = list(content), Counter[str]()
    for turn, number in enumerate(range(7, len(content), 20)):
        image, text = content[number]
        fault = kinds[turn % len(kinds)]
        count[fault] += 1
        images = {"empty image": b"", "not an image": b"<html>", "damaged image": image[: len(image) // 2],
                  "image too large": bomb(), "missing image": None}  # fmt: skip
        made[number] = (images.get(fault, image), " " if fault == "blank text" else text)  # type: ignore[assignment]
    return made, count


def write(folder: Path, content: list[tuple[bytes, str]], kind: str) -> dict[str, Any]:
    """The samples as ten shards, or as a csv of files; the source of a recipe."""
    folder.mkdir(parents=True)
    if kind == "csv":
        with open(folder / "captions.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["image", "caption"])
            for number, (image, text) in enumerate(content):
                writer.writerow([f"{number}.jpg", text])
                if image is not None:
                    (folder / f"{number}.jpg").write_bytes(image)
        return {"path": str(folder / "captions.csv")}
    for shard in range(10):
        with tarfile.open(folder / f"s-{shard:02d}.tar", "w") as tar:
            for number in range(shard, len(content), 10):
                for name, data in (
                    (f"{number}.jpg", content[number][0]),
                    (f"{number}.txt", content[number][1].encode()),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return {"path": str(folder / "s-{00..09}.tar"), "stream": True}


def recipe(source: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """A run on one source."""
    return {
        "name": "faults", "seed": 5, "method": "clip",
        "model": {
            "kind": "dual",
            "towers": {
                "dim": 64, "image": {"size": options.image},
                "text": {"config": {"model_type": "bert", "hidden_size": 64, "num_hidden_layers": 2,
                                    "num_attention_heads": 2, "intermediate_size": 128,
                                    "max_position_embeddings": 64},
                         "tokenizer": "builtin-shapes", "pooling": "mean", "dropout": 0.1},
            },
        },
        "data": {"train": [source], "on_bad_row": "quarantine", "shuffle_buffer": 400, "lanes": 4},
        "train": {"max_steps": options.steps, "batch_size": options.batch, "lr": 1e-3, "log_every": 10,
                  "save_every": options.save_every, "threads": options.threads},
    }  # fmt: skip


def run(given: dict[str, Any], output: Path) -> float:
    """Samples drawn a second."""
    from embedkit.training import train
    from embedkit.training.monitor.log import Progress

    class Clock(Progress):
        begun = ended = 0.0

        def start(self, total: int | None, done: int) -> None:
            self.begun = time.perf_counter()

        def step(self, done: int, figures: Any) -> None:
            self.ended = time.perf_counter()

    clock = Clock()
    train(given, output=output, progress=clock)
    return given["train"]["max_steps"] * given["train"]["batch_size"] / (clock.ended - clock.begun)


def check(output: Path, count: Counter[str], given: dict[str, Any]) -> str:
    """The account of a run in words; SystemExit when a sample is missing."""
    totals = json.loads((output / "samples.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (output / "quarantine.jsonl").read_text("utf-8").splitlines()]
    drawn = given["train"]["max_steps"] * given["train"]["batch_size"]
    listed = Counter(line["reason"] for line in lines if line["step"] is not None)
    places = {reason: {line["where"] for line in lines if line["reason"] == reason} for reason in FAULTS}
    right = (
        totals["drawn"] == drawn == totals["trained"] + sum(totals["skipped"].values())
        and listed == Counter(totals["skipped"])
        and all(len(found) <= count[reason] for reason, found in places.items())
    )
    if totals["read"] is not None:
        right = right and totals["read"] == totals["kept"] + sum(totals["dropped"].values())
    if not right:
        raise SystemExit(f"samples are missing in the account: {totals}")
    return f"drawn {drawn} = trained {totals['trained']} + skipped {sum(totals['skipped'].values())}"


def main() -> None:
    """Write the data, run in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--samples", type=int, default=1200)
    parser.add_argument("--image", default="vit-tiny-64")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=10**6)
    parser.add_argument("--write", type=Path, help="write data and recipes (tar.yaml, csv.yaml) there and end")
    parser.add_argument("--smoke", action="store_true", help="one small round")
    options = parser.parse_args()
    if options.smoke:
        options.rounds, options.steps, options.batch, options.samples = 1, 2, 16, 100
        options.image = "vit-nano-32"
    content = samples(options.samples)
    with tempfile.TemporaryDirectory() as root:
        folder = options.write.absolute() if options.write else Path(root)
        for kind in ("tar", "csv"):
            kinds = FAULTS if kind == "csv" else FAULTS[:-1]
            bad, count = spoilt(content, kinds)
            sources = {"faulty": write(folder / f"{kind}-faulty", bad, kind)}
            if options.write:
                text = yaml.safe_dump(recipe(sources["faulty"], options))
                (folder / f"{kind}.yaml").write_text(text, encoding="utf-8")
                continue
            sources["clean"] = write(folder / f"{kind}-clean", content, kind)
            found: dict[str, list[float]] = {"clean": [], "faulty": []}
            account = ""
            for number in range(options.rounds):
                for name in ("clean", "faulty") if number % 2 else ("faulty", "clean"):
                    given = recipe(sources[name], options)
                    output = folder / f"run-{kind}-{name}-{number}"
                    found[name].append(run(given, output))
                    account = check(output, count, given) if name == "faulty" else account
            clean, faulty = (statistics.median(found[name]) for name in ("clean", "faulty"))
            print(f"{kind}: {clean:.1f} samples/s clean, {faulty:.1f} with faults: {faulty / clean:.3f}; {account}")


if __name__ == "__main__":
    main()
