"""What the sections of gpu.py share: their sizes, time budgets, rows and reasons, clocks, memory, the matrix rate."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import math
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from embedkit.training.monitor.log import Progress


@dataclass(frozen=True)
class ClipShape:
    """A dual encoder: the image tower's own sizes, and the text tower's."""

    name: str
    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    text_width: int
    text_layers: int
    text_heads: int
    dim: int
    vocabulary: int = 49_408

    @property
    def tokens(self) -> int:
        """Patches of an image and its class token."""
        return (self.image_size // self.patch) ** 2 + 1


@dataclass(frozen=True)
class Size:
    """How much each section does; `seconds` are the budgets of the sections, `total` that of the whole run.

    Attributes
    ----------
    matmul : int
        Rows and columns of the product that the matrix rate is measured by.
    bert, text_batch, text_steps, text_warm, text_rounds, encode_texts, encode_batch
        (a): a BERT configuration, rows of a step, timed steps after some that are not, rounds, texts to encode, and
        the batch that sentence-transformers encodes in.
    clip, clip_batches, clip_chunk, clip_steps
        (b): dual encoders, rows of a step, images of a chunk at most, timed steps.
    loss_rows, loss_dim, loss_tile
        (c): rows N of both views, smallest first; rows of a tile, or "auto".
    exact_bert, exact_clip, exact_batch, exact_chunk, exact_tile, exact_steps
        (d): models, rows, and the sizes of chunks and tiles that must change nothing; steps of the run that is resumed.
        Weights are drawn wide: with BERT's own 0.02 the vectors of all texts are nearly equal, and their gradient is
        nearly all cancellation.
    queries, documents, search_dim, search_block, search_depth
        (e): a block is what is searched at a time.
    mlm_bert, mlm_batch, mlm_seconds, simcse_steps
        (f): the raw backbone, how long it is trained, and the steps of SimCSE behind it.
    """

    name: str
    total: float
    seconds: Mapping[str, float]
    matmul: int
    bert: Mapping[str, Any]
    text_batch: int
    text_steps: int
    text_warm: int
    text_rounds: int
    encode_texts: int
    encode_batch: int
    clip: tuple[ClipShape, ...]
    clip_batches: tuple[int, ...]
    clip_chunk: int
    clip_steps: int
    loss_rows: tuple[int, ...]
    loss_dim: int
    loss_tile: int | str
    exact_bert: Mapping[str, Any]
    exact_clip: ClipShape
    exact_batch: int
    exact_chunk: int
    exact_tile: int
    exact_steps: int
    queries: int
    documents: int
    search_dim: int
    search_block: int
    search_depth: int
    mlm_bert: Mapping[str, Any]
    mlm_batch: int
    mlm_seconds: float
    simcse_steps: int


def _bert(width: int, layers: int, heads: int, vocabulary: int, **more: float) -> dict[str, Any]:
    return {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * width,
        "max_position_embeddings": 512, "vocab_size": vocabulary, **more,
    }  # fmt: skip


_SMALL_CLIP = ClipShape("small", 64, 16, 192, 3, 3, 128, 3, 4, 128)
_TINY_CLIP = ClipShape("tiny", 16, 8, 16, 1, 2, 16, 1, 2, 8, vocabulary=600)

FULL = Size(
    name="full", total=470.0,
    seconds={"text": 65.0, "clip": 80.0, "loss": 25.0, "exact": 25.0, "search": 25.0, "simcse": 250.0},
    matmul=8192,
    bert=_bert(768, 12, 12, 30_522), text_batch=256, text_steps=40, text_warm=8, text_rounds=5,
    encode_texts=20_000, encode_batch=256,
    clip=(ClipShape("ViT-B/32", 224, 32, 768, 12, 12, 512, 12, 8, 512),
          ClipShape("ViT-B/16", 224, 16, 768, 12, 12, 512, 12, 8, 512)),
    clip_batches=(4096, 8192, 16_384, 32_768), clip_chunk=1024, clip_steps=2,
    loss_rows=(65_536, 131_072, 262_144, 524_288, 1_048_576), loss_dim=512, loss_tile="auto",
    exact_bert=_bert(256, 4, 4, 1000, initializer_range=0.2), exact_clip=_SMALL_CLIP, exact_batch=256,
    exact_chunk=48, exact_tile=100, exact_steps=24,
    queries=10_000, documents=10_000_000, search_dim=384, search_block=65_536, search_depth=100,
    mlm_bert=_bert(512, 8, 8, 1000), mlm_batch=256, mlm_seconds=180.0, simcse_steps=600,
)  # fmt: skip

TINY = Size(
    name="tiny", total=600.0, seconds=dict.fromkeys(("text", "clip", "loss", "exact", "search", "simcse"), 100.0),
    matmul=128,
    bert=_bert(16, 1, 2, 500), text_batch=8, text_steps=2, text_warm=1, text_rounds=1, encode_texts=24, encode_batch=8,
    clip=(_TINY_CLIP,), clip_batches=(8, 16), clip_chunk=4, clip_steps=1,
    loss_rows=(64, 128), loss_dim=16, loss_tile=24,
    exact_bert=_bert(16, 1, 2, 500, initializer_range=1.0), exact_clip=_TINY_CLIP, exact_batch=12,
    exact_chunk=5, exact_tile=5, exact_steps=6,
    queries=20, documents=1000, search_dim=16, search_block=300, search_depth=10,
    mlm_bert=_bert(16, 1, 2, 500), mlm_batch=16, mlm_seconds=0.5, simcse_steps=3,
)  # fmt: skip

SIZES = {size.name: size for size in (FULL, TINY)}


class OverBudget(Exception):
    """The time of a section is spent."""


class Budget:
    """Seconds that may be spent from now on."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._start = clock()

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    @property
    def left(self) -> float:
        """Seconds until the end, negative behind it."""
        return self.seconds - self.spent

    def check(self) -> None:
        """Raise `OverBudget` where no time is left."""
        if self.left <= 0:
            raise OverBudget(f"stopped: the budget of {self.seconds:.0f} s is spent")

    def too_long(self, seconds: float) -> str | None:
        """Why work of so many seconds is not begun, None where there is time for it."""
        if seconds <= self.left:
            return None
        return f"would take about {seconds:.0f} s, {max(0.0, self.left):.0f} s of the budget are left"


@dataclass
class Section:
    """What a section has found so far: a row of figures for each thing measured, and why others are missing."""

    name: str
    title: str
    budget: Budget
    status: str = "running"
    reason: str = ""
    took: float | None = None
    rows: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, *key: Any, **figures: Any) -> None:
        """Write the row of `key`, in the place of an earlier one; one with a figure that is not finite is left out."""
        for name, value in figures.items():
            if isinstance(value, float) and not math.isfinite(value):
                self.skip(", ".join(map(str, key)), f"{name} is {value}")
                return
        with self.lock:
            self.rows[key] = figures

    def skip(self, what: str, reason: str) -> None:
        """Say why something has no row; once."""
        entry = {"what": what, "reason": reason}
        with self.lock:
            if entry not in self.skipped:
                self.skipped.append(entry)

    def end(self, status: str, reason: str = "") -> None:
        """The section is over."""
        self.status, self.reason, self.took = status, reason, self.budget.spent

    def as_json(self) -> dict[str, Any]:
        """The section as the document has it."""
        with self.lock:
            return {
                "title": self.title, "status": self.status, "reason": self.reason,
                "budget_s": round(self.budget.seconds, 1),
                "spent_s": round(self.budget.spent if self.took is None else self.took, 1),
                "rows": list(self.rows.values()), "skipped": list(self.skipped),
            }  # fmt: skip

    @contextlib.contextmanager
    def attempt(self, what: str, peer: bool = False) -> Iterator[None]:
        """A context for one measurement. Too little memory is a reason to skip it; of a peer, any error is."""
        try:
            yield
        except OverBudget:
            raise
        except Exception as error:
            full = next((e for e in (error, error.__cause__) if isinstance(e, torch.OutOfMemoryError)), None)
            if full is None and not peer:
                raise
            failed = f"failed: {type(error).__name__}: {first_line(error)}"
            self.skip(what, failed if full is None else f"out of memory: {first_line(full)}")
        free()


def first_line(error: BaseException) -> str:
    """The first line of an error, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def free() -> None:
    """Give memory that nothing holds any more back to the device."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def missing(module: str, name: str | None = None) -> str | None:
    """Why a library cannot be used, None where it can."""
    return None if importlib.util.find_spec(module) is not None else f"{name or module} is not installed"


def precision(device: torch.device) -> str:
    """The arithmetic of the sections that are about speed: bf16 on a GPU, and on a CPU, which may lack it, fp32."""
    return "bf16" if device.type == "cuda" else "fp32"


def half_type(device: torch.device) -> torch.dtype:
    """The type of `precision`."""
    return torch.bfloat16 if precision(device) == "bf16" else torch.float32


def autocast(device: torch.device) -> Callable[[], Any]:
    """A maker of the context of `precision` for a forward pass."""
    from embedkit.training.optim import precision as own

    return own.autocast(precision(device), device)  # type: ignore[arg-type]


def wait(device: torch.device) -> None:
    """Return once the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds of `work`, the device's part included."""
    wait(device)
    begun = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - begun


def forget_peak(device: torch.device) -> None:
    """Start to look for the largest memory anew; a CPU's process keeps its own record."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: torch.device) -> float:
    """The largest memory since `forget_peak`, MiB: allocated on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def free_bytes(device: torch.device) -> int:
    """Memory of the device that is free now; of a CPU, what the machine says is available."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


@contextlib.contextmanager
def fp32_products(setting: str) -> Iterator[None]:
    """A context with float32 products as "highest" (fp32) or "high" (TF32 where the device has it)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def matrix_rate(size: Size, device: torch.device, kind: torch.dtype) -> float:
    """Floating point operations a second of a large matrix product, the best of a few; see `fp32_products`."""
    side = size.matmul
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=kind)
    best = min(timed(device, lambda: torch.mm(a, b, out=out)) for _ in range(8))
    return 2.0 * side**3 / best


def encoder_operations(width: int, inner: int, layers: int, tokens: int, squares: int) -> float:
    """Matrix-product operations of one forward pass of transformer layers over `tokens` real tokens, whose texts have
    lengths with the sum of squares `squares`."""
    return 2.0 * layers * (4 * width * width + 2 * width * inner) * tokens + 4.0 * layers * width * squares


class _Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if ("attention" in name or "attn" in name) and "backward" not in name:
            self.found[name.split("::")[-1].split(".")[0].strip("_")] = None
        return func(*args, **(kwargs or {}))


def attention_of(work: Callable[[], Any]) -> str:
    """The attention operations that `work` calls, as torch names them; "products" where there is none."""
    with _Names() as names, torch.no_grad():
        work()
    return ", ".join(names.found) or "products"


class Enough(Exception):
    """A run has done what is timed; what comes behind, its files, is not needed."""


class Stopwatch(Progress):
    """Times the steps of a run behind the first `warm` ones, and ends it after `steps` of them, or `seconds`.

    Attributes
    ----------
    done : int
        Timed steps.
    seconds : float
        Their time.
    """

    def __init__(
        self, device: torch.device, budget: Budget, warm: int, steps: int | None = None, limit: float | None = None
    ) -> None:
        self.device, self.budget, self.warm, self.steps, self.limit = device, budget, warm, steps, limit
        self.done, self.seconds, self._begun = 0, 0.0, 0.0

    def step(self, done: int, figures: Any) -> None:
        """See `Progress`."""
        self.budget.check()
        if done == self.warm:
            wait(self.device)
            forget_peak(self.device)
            self._begun = time.perf_counter()
        last = self.steps is not None and done == self.warm + self.steps
        late = self.limit is not None and done > self.warm and time.perf_counter() - self._begun >= self.limit
        if last or late:
            wait(self.device)
            self.done, self.seconds = done - self.warm, time.perf_counter() - self._begun
            raise Enough


class Watched(Progress):
    """Ends a run with `OverBudget` when the time of its section is spent."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def step(self, done: int, figures: Any) -> None:
        """See `Progress`."""
        self.budget.check()
