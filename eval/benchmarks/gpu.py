"""What embedkit does on a GPU, in one command that runs unattended in at most eight minutes.

    python eval/benchmarks/gpu.py [--output gpu-benchmark] [--sections text clip loss exact search simcse]
        [--device cuda] [--size full] [--sts ../shared/data/sts]

It needs torch 2.9 or later and embedkit's base dependencies; sentence-transformers and open_clip are measured beside
it where they are installed, and what is missing is said with its reason. Weights are random, and data are made here.

(a) text    a BERT-base size in bf16: training and encoding, tokens a second, share of the matrix rate
(b) clip    ViT-B/32 and B/16 at batches of 4,096 to 32,768 by gradient cache and tiles: images a second, MFU, memory
(c) loss    CLIP's loss over 65,536 to 1,048,576 pairs of 512 numbers: time and memory
(d) exact   gradients of chunks and tiles against the whole batch; a run resumed bit for bit
(e) search  10,000 queries in 10,000,000 documents
(f) simcse  a raw backbone made by masked words in minutes, STS before and after SimCSE

Every section has a budget of seconds and ends within it; OUTPUT.json and OUTPUT.md are written after each. If something
hangs, a timer writes what is known and ends the process (exit code 3). ``--device cpu --size tiny`` runs all of it
by the same code in less than a minute; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

TITLES = {
    "text": "(a) text: training and encoding", "clip": "(b) CLIP steps by gradient cache and tiles",
    "loss": "(c) CLIP's loss", "exact": "(d) exactness", "search": "(e) exact search", "simcse": "(f) SimCSE",
}  # fmt: skip
MEMORY = "Memory is the largest that torch had allocated on the GPU; on a CPU, that of the process since its start."
SPARE = 8.0
"""Seconds behind the last budget before the timer ends the process."""


def environment(device: Any, size: Any) -> dict[str, Any]:
    """Machine, versions and the matrix rates that shares refer to."""
    import torch
    from gpu_common import fp32_products, half_type, matrix_rate

    from embedkit import __version__

    gpu = device.type == "cuda"
    about = torch.cuda.get_device_properties(device) if gpu else None
    rates = {"half": matrix_rate(size, device, half_type(device)) / 1e12}
    for name, setting in (("fp32", "highest"), ("tf32", "high")) if gpu else (("fp32", "highest"),):
        with fp32_products(setting):
            rates[name] = matrix_rate(size, device, torch.float32) / 1e12
    return {
        "device": about.name if about else platform.processor() or platform.machine(),
        "memory_gib": about.total_memory / 2**30 if about else None, "size": size.name,
        "torch": torch.__version__, "cuda": torch.version.cuda if gpu else None, "embedkit": __version__,
        "python": platform.python_version(), "threads": torch.get_num_threads(), "half_type": str(half_type(device)),
        "matrix_rate_tflops": rates, "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }  # fmt: skip


def section_functions(sts: str | None) -> dict[str, Callable[..., None]]:
    """The functions of the sections, in the order that they run in."""
    from gpu_clip import clip
    from gpu_exact import exact
    from gpu_loss import loss
    from gpu_search import search
    from gpu_simcse import simcse
    from gpu_text import text

    return {
        "text": text, "clip": clip, "loss": loss, "exact": exact, "search": search,
        "simcse": partial(simcse, sts=sts),
    }  # fmt: skip


class Document:
    """What was found, and its two files."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.facts: dict[str, Any] = {}
        self.sections: dict[str, Any] = {}
        self._lock = threading.Lock()

    def as_json(self) -> dict[str, Any]:
        """Environment and sections."""
        return {"environment": self.facts, "sections": {n: s.as_json() for n, s in list(self.sections.items())}}

    def write(self) -> None:
        """Write OUTPUT.json and OUTPUT.md, each as a whole."""
        with self._lock:
            found = self.as_json()
            texts = {".json": json.dumps(found, indent=1, allow_nan=False) + "\n", ".md": markdown(found)}
            for ending, text in texts.items():
                path = self.output.with_name(self.output.name + ending)
                part = path.with_name(path.name + ".part")
                part.write_text(text, encoding="utf-8")
                part.replace(path)


def markdown(found: dict[str, Any]) -> str:
    """The document as tables, one for each set of columns of a section, and the reasons for what is missing."""
    facts = found["environment"]
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in facts.get("matrix_rate_tflops", {}).items())
    said = ", ".join(f"{name} {facts.get(name)}" for name in ("device", "size", "torch", "embedkit", "started"))
    lines = [
        f"# embedkit on {facts.get('device')}",
        "",
        f"{said}; measured matrix rates in TFLOP/s: {rates}.",
        "",
        MEMORY,
    ]
    for section in found["sections"].values():
        reason = f" ({section['reason']})" if section["reason"] else ""
        spent = f"{section['spent_s']:.0f} of {section['budget_s']:.0f} s"
        lines += ["", f"## {section['title']}", "", f"{section['status']}{reason}, {spent}"]
        tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in section["rows"]:
            tables.setdefault(tuple(row), []).append(row)
        for columns, rows in tables.items():
            lines += ["", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += [f"| {' | '.join(shown(value) for value in row.values())} |" for row in rows]
        if section["skipped"]:
            lines += ["", "| not measured | reason |", "|---|---|"]
            lines += [f"| {entry['what']} | {entry['reason']} |".replace("\n", " ") for entry in section["skipped"]]
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    """A figure for people."""
    if isinstance(value, bool) or not isinstance(value, float | int):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def measure(
    document: Document, size: Any, device: Any, names: Sequence[str] = tuple(TITLES), sts: str | None = None,
    clock: Callable[[], float] = time.monotonic, begun: float | None = None,
) -> None:  # fmt: skip
    """Run the sections named, each within its budget and what is left of the whole time; files after each."""
    from gpu_common import Budget, OverBudget, Section, first_line, free

    begun = clock() if begun is None else begun
    document.facts = environment(device, size)
    document.write()
    for name, function in section_functions(sts).items():
        if name not in names:
            continue
        seconds = max(0.0, min(size.seconds[name], size.total - (clock() - begun)))
        section = Section(name, TITLES[name], Budget(seconds, clock))
        document.sections[name] = section
        print(f"{TITLES[name]}: at most {seconds:.0f} s", flush=True)
        try:
            section.budget.check()
            function(size, device, section)
            section.end("complete")
        except OverBudget as error:
            section.end("stopped", str(error).removeprefix("stopped: "))
        except Exception as error:
            traceback.print_exc()
            section.end("failed", f"{type(error).__name__}: {first_line(error)}")
        free()
        document.write()
        print(f"  {section.status} {section.reason}, {section.took:.0f} s, {len(section.rows)} rows", flush=True)


def give_up(document: Document) -> None:
    """End the process with what is known: something hangs that no budget can stop."""
    for section in document.sections.values():
        if section.status == "running":
            section.end("stopped", "it hung past its budget, and the process was ended")
    document.write()
    print("the time is over: ended by the timer", file=sys.stderr, flush=True)
    os._exit(3)


def main() -> int:
    """Measure, write, print the tables. 1 where a section failed."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu-benchmark"), help="both files, without their ending")
    parser.add_argument("--sections", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--sts", help="folder of STS files, for the suite sts in the last section")
    parser.add_argument("--minutes", type=float, help="all of it; budgets shrink with it", default=None)
    options = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic products need; before CUDA starts
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one GPU: a trainer that sees more would take them all
    if options.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    import torch
    from gpu_common import SIZES

    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU; --device cpu --size tiny tries the code on a CPU", file=sys.stderr)
        return 2
    size = SIZES[options.size]
    if options.minutes is not None:
        share = 60 * options.minutes / size.total
        seconds = {name: share * budget for name, budget in size.seconds.items()}
        size = replace(size, total=60 * options.minutes, seconds=seconds, mlm_seconds=share * size.mlm_seconds)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    document = Document(options.output)
    timer = threading.Timer(max(1.0, size.total + SPARE - (time.monotonic() - started)), give_up, [document])
    timer.daemon = True
    timer.start()
    measure(document, size, torch.device(options.device), options.sections, options.sts, begun=started)
    timer.cancel()
    print(markdown(document.as_json()))
    return int(any(section.status == "failed" for section in document.sections.values()))


if __name__ == "__main__":
    sys.exit(main())
