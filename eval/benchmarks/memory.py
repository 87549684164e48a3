"""Peak memory of whole processes, beside sentence-transformers and beside what `embedkit plan` says.

    python eval/benchmarks/memory.py [--steps 6] [--texts 200000] [--data ../shared/data/nli/nli_triplets.parquet]

Every figure is the highest resident size (VmHWM, Linux) of a process of its own, with all it imports. Training: MiniLM
on NLI triplets, batch 64, as in training.py. Encoding: a static encoder of random weights and 256 dimensions on short
made up texts, from a list in memory, and from a file by `encode_file`; a transformer would take hours on a CPU and
differs by its weights and one batch only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def peak_mib() -> float:
    """The highest resident size of this process so far, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def made_texts(count: int) -> list[str]:
    """Distinct texts of five words."""
    return [f"the {i % 997} lamps of house {i}" for i in range(count)]


def work(what: str, folder: Path, given: dict[str, Any]) -> None:
    """One case, in this process."""
    import training as speed

    if what in ("train embedkit", "plan"):
        ours = speed.Ours(speed.model_folder(), str(folder / "rows.parquet"), given["steps"])
        ours.recipe["train"] |= given.get("train", {})
        if what == "plan":
            from embedkit.config.recipe_io import load_recipe
            from embedkit.training import plan

            print(plan(load_recipe(ours.recipe)).memory["peak"].split()[0])
            return
        ours.epoch()
    elif what == "train sentence-transformers":
        import pyarrow.parquet as pq

        rows = pq.read_table(folder / "rows.parquet").to_pylist()
        speed.Theirs(speed.model_folder(), rows, given["steps"], best=False).epoch()
    elif what == "encode embedkit, list":
        import embedkit

        embedkit.load(folder / "static").encode(made_texts(given["texts"]))
    elif what == "encode embedkit, file":
        import embedkit
        from embedkit.models.encode.file_encoding import encode_file

        encode_file(embedkit.load(folder / "static"), folder / "texts.txt", folder / "vectors.npy", overwrite=True)
    else:
        from sentence_transformers import SentenceTransformer

        SentenceTransformer(str(folder / "static"), device="cpu").encode(made_texts(given["texts"]))
    print(peak_mib())


def figure(what: str, folder: Path, **given: Any) -> float:
    """MiB of a case in a process of its own."""
    command = [sys.executable, __file__, "--case", what, str(folder), json.dumps(given)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--case"]:
        work(sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--data", default="../shared/data/nli/nli_triplets.parquet")
    arguments = parser.parse_args()
    import pyarrow as pa
    import pyarrow.parquet as pq
    import training as speed

    from embedkit.data.builtin import tokenizer
    from embedkit.models import StaticEncoder

    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        rows = speed.triplets(arguments.data, arguments.steps * speed.BATCH)
        pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
        StaticEncoder(tokenizer(), dim=256).save(folder / "static")
        (folder / "texts.txt").write_text("\n".join(made_texts(arguments.texts)) + "\n")
        base = figure("train sentence-transformers", folder, steps=arguments.steps)
        print(f"training, sentence-transformers: {base:,.0f} MiB", flush=True)
        for train in ({}, {"moments": "bf16"}, {"moments": "int8"}, {"chunk_tokens": 512}):
            found = figure("train embedkit", folder, steps=arguments.steps, train=train)
            said = figure("plan", folder, steps=arguments.steps, train=train)
            words = ", ".join(f"{key} {value}" for key, value in train.items()) or "defaults"
            print(f"training, embedkit, {words}: {found:,.0f} MiB ({found / base:.2f} of sentence-transformers'), "
                  f"plan says {said:,.0f} ({said / found - 1:+.0%})", flush=True)  # fmt: skip
        base = figure("encode sentence-transformers, list", folder, texts=arguments.texts)
        print(f"encoding {arguments.texts:,} texts, sentence-transformers: {base:,.0f} MiB", flush=True)
        for what in ("encode embedkit, list", "encode embedkit, file"):
            found = figure(what, folder, texts=arguments.texts)
            print(f"{what}: {found:,.0f} MiB ({found / base:.2f})", flush=True)


if __name__ == "__main__":
    main()
