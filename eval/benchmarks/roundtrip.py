"""Folders handed to the peers and back: the largest difference of a coordinate for each form of folder and version.

    python eval/benchmarks/roundtrip.py                     # the installed versions
    python eval/benchmarks/roundtrip.py --also DIR          # and the sentence-transformers that is installed in DIR

The first table is of text folders of sentence-transformers; the second (`roundtrip_peers.py`, left out by --text-only)
of transformers, its CLIP and SigLIP, open_clip, model2vec, peft and ONNX. Models are tiny and random, so that every
part shows in the vectors; some minutes on a CPU. model2vec is no part of any extra: `pip install --target DIR --no-deps
model2vec` and `PYTHONPATH=DIR` let it take part. Exit code 1 when a difference is above the bound, or a refusal is not
one of those expected. `tools/oldest.py` gives the oldest sentence-transformers that pyproject.toml allows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

BOUND = 2e-5
# reads folders in a process of its own, where an older sentence-transformers may be the one that is imported
_READ = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import numpy as np
from sentence_transformers import SentenceTransformer, __version__
job = json.loads(sys.stdin.read())
for name, folder in job["folders"].items():
    try:
        model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": "float32"})
        np.save(f"{folder}.npy", model.encode(job["texts"], show_progress_bar=False))
        if job["save"]:
            model.save(f"{folder}-theirs")
    except Exception as error:
        open(f"{folder}.error", "w").write(f"{type(error).__name__}: {error}".splitlines()[0])
print(__version__)
"""


def forms() -> dict[str, Callable[[], Any]]:
    """Models by the form of folder that they are saved in, each made when it is asked for."""
    from embedkit.models.heads.layers import Cut, Dense, LayerNorm, UnitLength
    from embedkit.models.modules.static import StaticEncoder
    from tests.helpers import tiny

    def text(family: str = "bert", **settings: Any) -> Callable[[], Any]:
        return lambda: tiny.text_encoder(family, **settings)

    poolings = ("mean", "cls", "max", "last-token", "weighted-mean", "mean-sqrt-len", "cls+mean")
    return {
        **{f"pooling {name}": text(pooling=name) for name in poolings},
        **{family: text(family) for family in ("roberta", "mpnet", "distilbert", "modernbert", "t5", "electra")},
        "dense": text(dense=[Dense(32, 16), Dense(16, 8, "identity", bias=False)]),
        "normalize, dense": text(dense=[UnitLength(), Dense(32, 16)]),
        "layer norm": text(dense=[LayerNorm(32)]),
        "truncate_dim": text(dense=[UnitLength(), Cut(8)], normalize=False),
        "prompts": text(prompts={"query": "who ", "document": ""}, default_prompt="query"),
        "prompt not pooled": text(prompts={"query": "who "}, default_prompt="query", pool_prompt=False),
        "static": lambda: StaticEncoder(tiny.tokenizer(), 24).eval(),
    }


def read_by_sentence_transformers(
    folders: dict[str, Path], texts: list[str], also: Path | None, save: bool
) -> tuple[str, dict[str, np.ndarray | str]]:
    """The library's version, and for each folder its vectors or the error that it raised."""
    path = os.pathsep.join([*([str(also)] if also else []), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    job = {"folders": {name: str(folder) for name, folder in folders.items()}, "texts": texts, "save": save}
    result = subprocess.run(
        [sys.executable, "-c", _READ], input=json.dumps(job), capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    if result.returncode:
        raise SystemExit(f"sentence-transformers cannot be run: {result.stderr.strip().splitlines()[-1]}")
    read: dict[str, np.ndarray | str] = {}
    for name, folder in folders.items():
        file = Path(f"{folder}.npy")
        read[name] = np.load(file) if file.is_file() else Path(f"{folder}.error").read_text()
        file.unlink(missing_ok=True)
    return result.stdout.strip().splitlines()[-1], read


def text_table(folder: Path, also: Path | None) -> tuple[list[str], dict[str, list[float | str]]]:
    """Column names and, for each form, the differences: their vectors of our folder, ours of what they save again."""
    import embedkit
    from embedkit.formats.sentence_transformers.writer import notes_for_readers
    from tests.helpers import tiny

    texts, folders, ours, told = tiny.SENTENCES, {}, {}, {}
    for place, (name, make) in enumerate(forms().items()):
        model = make()
        ours[name] = model.encode(texts)
        folders[name] = model.save(folder / str(place))
        told[name] = notes_for_readers(model)
    columns: list[str] = []
    table: dict[str, list[float | str]] = {name: [] for name in folders}
    for installed in [None, also] if also else [None]:
        number, read = read_by_sentence_transformers(folders, texts, installed, save=True)
        columns += [f"ST {number} reads ours", f"we read ST {number}'s"]
        for name in folders:
            vectors, back = read[name], Path(f"{folders[name]}-theirs")
            if isinstance(vectors, str):
                table[name] += [vectors, "-"]
                continue
            again = embedkit.load(back, device="cpu").encode(texts)
            if vectors.shape != ours[name].shape and told[name]:
                table[name] += ["other size (told at save)", "-"]
            else:
                table[name] += [_difference(vectors, ours[name]), _difference(again, vectors)]
            shutil.rmtree(back)
    return columns, table


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / max(1.0, float(np.abs(b).max())))


def show(title: str, columns: list[str], table: dict[str, list[float | str]]) -> bool:
    """Print a table; whether all of it is within the bound."""
    print(f"\n| {title} | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, cells in table.items():
        print(f"| {name} | " + " | ".join(c if isinstance(c, str) else f"{c:.1e}" for c in cells) + " |")
    cells = [cell for row in table.values() for cell in row]
    return all(cell == "-" or "(told" in cell if isinstance(cell, str) else cell < BOUND for cell in cells)


def main() -> int:
    """Print the tables; 0 when every difference is within the bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--also", type=Path, help="folder with another sentence-transformers")
    parser.add_argument("--text-only", action="store_true", help="sentence-transformers' text folders only")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["HF_HUB_CACHE"] = f"{name}/hub"  # read once, when the hub's client is imported
        good = show("text folder", *text_table(Path(name), words.also))
        if not words.text_only:
            import roundtrip_peers

            good &= roundtrip_peers.show(Path(name), BOUND)
    print(f"\nall within {BOUND}, or as expected" if good else f"\nsome above {BOUND}, or not as expected")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
