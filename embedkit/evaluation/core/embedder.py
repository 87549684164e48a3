"""Encoding for evaluation: every distinct input once, checked, remembered, shared between tasks and processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from embedkit.errors import NonFiniteError, UserError
from embedkit.evaluation.core.inputs import Item, item_key
from embedkit.evaluation.core.stats import Array
from embedkit.evaluation.core.task import Request, Side
from embedkit.models.encode.engine import run_jobs

if TYPE_CHECKING:
    from embedkit.evaluation.core.cache import EmbeddingCache

Progress = Callable[[int, int], None]
FEWEST = 8
"""Different inputs with one and the same vector that show a model to be collapsed; two or three may well mean the same
to it, like a word in capitals and not, or texts of unknown words."""

_Space = tuple[str | None, bool]


SIDES: tuple[Side, ...] = ("query", "document")
_SIDE_PROMPTS: Mapping[str, Sequence[str]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


def prompt_of_side(prompts: Collection[str], side: str | None) -> str | None:
    """The name among a model's `prompts` for a side of a search, as sentence-transformers' ``encode_query`` and
    ``encode_document`` choose it; None where the model has none.

    Examples
    --------
    >>> prompt_of_side({"query": "query: ", "passage": "passage: "}, "document")
    'passage'
    """
    return next((name for name in _SIDE_PROMPTS.get(side or "", ()) if name in prompts), None)


def _prompts(model: Any) -> dict[str, str]:
    """The model's prompts by name; none where it has no such attribute."""
    prompts = getattr(model, "prompts", None)
    return prompts if isinstance(prompts, dict) else {}


class Encoder(Protocol):
    """What evaluation needs of a model; ``describe()`` and ``similarity()`` are used where they exist.

    Examples
    --------
    >>> class Lengths:
    ...     def encode(self, texts, **options):
    ...         return np.array([[len(text), 1.0] for text in texts])
    >>> Embedder(Lengths())(["a cat", "it"]).tolist()
    [[5.0, 1.0], [2.0, 1.0]]
    """

    def encode(self, *inputs: Any, **options: Any) -> Any:
        """Vectors of the one list of inputs in its order: array or CPU tensor (N, D), floating point."""


def _quotation(item: Item) -> str:
    """A short quotation of an input for messages."""
    if not isinstance(item, str):
        return item.name
    return repr(item if len(item) <= 60 else item[:57] + "...")


def as_vectors(output: Any) -> Array:
    """The numpy array of what a model returned, still unchecked; tensors are moved to the CPU and to float32.

    Examples
    --------
    >>> import torch
    >>> as_vectors(torch.ones(1, 2, dtype=torch.bfloat16))
    array([[1., 1.]], dtype=float32)
    """
    if hasattr(output, "detach"):
        output = output.detach().cpu().float().numpy()
    return np.asarray(output)


def check_vectors(vectors: Array, items: Sequence[Item]) -> Array:
    """The vectors as float32 (N, D) when there is one finite vector for each item.

    Raises
    ------
    UserError
        The shape or the type is wrong.
    NonFiniteError
        A vector holds NaN or infinity; the input is named.

    Examples
    --------
    >>> check_vectors(np.array([[0.6, 0.8]]), ["a cat"]).dtype
    dtype('float32')
    >>> check_vectors(np.array([[0.6, np.nan]]), ["a cat"])
    Traceback (most recent call last):
        ...
    embedkit.errors.NonFiniteError: 1 embeddings hold NaN or infinity, first for 'a cat'
    """
    if vectors.ndim != 2 or len(vectors) != len(items) or vectors.shape[1] == 0:
        raise UserError(
            f"encode returned shape {tuple(vectors.shape)} for {len(items)} inputs",
            where="the model",
            remedy=f"it must return ({len(items)}, D) with D > 0",
        )
    if not np.issubdtype(vectors.dtype, np.floating):
        raise UserError(f"encode returned {vectors.dtype}, not floating point", where="the model")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    good = np.isfinite(vectors).all(axis=1)
    if not good.all():
        row = int(np.argmin(good))
        count = int((~good).sum())
        raise NonFiniteError(f"{count} embeddings hold NaN or infinity, first for {_quotation(items[row])}")
    return vectors


class _Sameness:
    """Whether all inputs so far had the same vector."""

    def __init__(self) -> None:
        self.differs = False
        self._first: Array | None = None
        self._keys: set[bytes] = set()  # at most FEWEST

    def see(self, keys: Sequence[bytes], vectors: Array) -> None:
        """Take in the inputs with these keys and their vectors (N, D)."""
        if self.differs or not len(vectors):
            return
        if self._first is None:
            self._first = vectors[0].copy()
        size = float(np.abs(self._first).max())
        self.differs = len(self._first) != vectors.shape[1] or not np.abs(vectors - self._first).max() <= 1e-6 * size
        for key in keys:
            if len(self._keys) == FEWEST:
                break
            self._keys.add(key)

    def refuse(self) -> None:
        """Raise NonFiniteError when `FEWEST` different inputs had the same vector and no input another one."""
        if not self.differs and len(self._keys) == FEWEST:
            raise NonFiniteError(
                "the embeddings of different inputs are all the same",
                where="the model",
                remedy="it has collapsed, or ignores its input",
            )


class Embedder:
    """Encodes for the tasks of a suite and remembers what it has encoded.

    Parameters
    ----------
    model : Encoder
        Anything with ``encode(list) -> (N, D)``.
    prompt : str, optional
        Name of a prompt for every input that a task does not give another prompt.
    dim : int, optional
        Keep the first `dim` numbers of every vector (Matryoshka truncation, Kusupati et al. 2022).
    block : int
        Inputs given to ``encode`` at a time, between two reports of progress.
    cache : EmbeddingCache, optional
        Vectors shared over suites, models and calls; needs `model_key`.
    model_key : str, optional
        What decides the vectors besides input and prompt: weights, pooler, length, precision.
    distributed : bool
        Share the encoding among the processes of torch.distributed; all of them must make the same calls.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> vowels = SimpleNamespace(encode=lambda texts: np.array([[t.count(c) for c in "aei"] for t in texts], float))
    >>> embed = Embedder(vowels)
    >>> embed(["banana", "kiwi", "banana"]).tolist()
    [[3.0, 0.0, 0.0], [0.0, 0.0, 2.0], [3.0, 0.0, 0.0]]
    >>> embed.encoded
    2
    """

    def __init__(
        self,
        model: Encoder,
        *,
        prompt: str | None = None,
        dim: int | None = None,
        block: int = 4096,
        cache: EmbeddingCache | None = None,
        model_key: str | None = None,
        distributed: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.prompt, self.dim, self.block = model, prompt, dim, block
        self.cache = cache if model_key is not None else None
        self.model_key, self.distributed, self.progress = model_key, distributed, progress
        self.encoded, self.reused, self.seconds = 0, 0, 0.0
        self._rows: dict[_Space, dict[bytes, int]] = {}
        self._vectors: dict[_Space, list[Array]] = {}
        self._table: dict[_Space, Array] = {}
        self._sameness: dict[_Space, _Sameness] = {}

    def prompt_of(self, prompt: str | None = None, side: Side | None = None) -> str | None:
        """The prompt of inputs that a task gives `prompt`: that one, an empty one too; else the embedder's own; else
        the model's prompt for their `side`."""
        if prompt is not None:
            return prompt
        return self.prompt if self.prompt is not None else prompt_of_side(_prompts(self.model), side)

    def describe_prompts(self, **sides: str | None) -> tuple[dict[str, str], list[str]]:
        """Texts of the prompts in use by side, and words for people; `sides` are the settings ``query=``,
        ``document=``."""
        prompts: dict[str, str | None] = {
            side: self._text_of(self.prompt_of(sides[side], side)) for side in SIDES if side in sides
        }
        texts = {side: text for side, text in prompts.items() if text is not None}
        if not any(texts.values()):
            return texts, []
        quoted = [f"{side} {texts[side]!r}" if side in texts else f"{side} by the model's default" for side in prompts]
        return texts, [f"prompts: {', '.join(quoted)}"]

    def _space(self, items: Sequence[Item], prompt: str | None, side: Side | None = None) -> _Space:
        """What `items` are filed under: their prompt, and whether they are texts or images (never both)."""
        return self.prompt_of(prompt, side), bool(items) and not isinstance(items[0], str)

    def prepare(self, requests: Sequence[Request]) -> None:
        """Encode every distinct input of all `requests` once and keep the vectors.

        Raises
        ------
        NonFiniteError
            A vector is not finite, or all vectors so far are the same, those of `FEWEST` different inputs at least.
        """
        missing_by_space: dict[_Space, dict[bytes, Item]] = {}
        for request in requests:
            space = self._space(request.items, request.prompt, request.side)
            rows, new = self._rows.get(space, {}), missing_by_space.setdefault(space, {})
            for item in request.items:
                key = item_key(item)
                if key not in rows:
                    new.setdefault(key, item)
        for space, new in missing_by_space.items():
            if new:
                self._keep(space, list(new), self._encode(list(new.values()), list(new), space))
                self._sameness[space].refuse()

    def _keep(self, space: _Space, keys: list[bytes], vectors: Array) -> None:
        rows = self._rows.setdefault(space, {})
        start = len(rows)
        rows.update((key, start + place) for place, key in enumerate(keys))
        self._vectors.setdefault(space, []).append(vectors)
        self._table.pop(space, None)

    def __call__(self, items: Sequence[Item], prompt: str | None = None, side: Side | None = None) -> Array:
        """Vectors of `items`, all texts or all images, in their order, float32 (N, D); from memory where known."""
        space = self._space(items, prompt, side)
        self.prepare([Request(items, prompt, side)])
        if space not in self._table:
            parts = self._vectors[space]
            self._table[space] = parts[0] if len(parts) == 1 else np.concatenate(parts)
            self._vectors[space] = [self._table[space]]
        rows = self._rows[space]
        return self._table[space][[rows[item_key(item)] for item in items]]

    def blocks(
        self,
        items: Sequence[Item],
        size: int,
        prompt: str | None = None,
        *,
        side: Side | None = None,
        own: bool = False,
        keep: bool = False,
    ) -> Iterator[tuple[int, Array]]:
        """``(start, vectors)`` block by block in order, for corpora larger than memory.

        A cache in a folder gets the vectors, one in memory only with `keep`. When distributed, every process gets all
        blocks; with `own` it gets, and encodes alone, only its part of them. Whether all vectors are the same, see
        `prepare`, is judged after the last block, since one block may hold equal documents only.
        """
        space = self._space(items, prompt, side)
        rank, world = _place() if self.distributed and own else (0, 1)
        end = (rank + 1) * len(items) // world
        for start in range(rank * len(items) // world, end, size):
            part = items[start : min(start + size, end)]
            keys = [item_key(item) for item in part]
            yield start, self._encode(list(part), keys, space, alone=own, keep=keep)
        if space in self._sameness:
            self._sameness[space].refuse()

    def _text_of(self, prompt: str | None) -> str | None:
        """The text of a named prompt: encoders agree on texts, but not on whether they know names."""
        prompts = _prompts(self.model)
        return prompts[prompt] if prompt is not None and prompt in prompts else prompt

    def _encode(
        self, items: list[Item], keys: list[bytes], space: _Space, alone: bool = False, keep: bool = True
    ) -> Array:
        """Vectors of items, from the cache or the model, checked and cut to `dim`; `keep` as `EmbeddingCache.put`."""
        prompt = self._text_of(space[0])
        hits: dict[bytes, Array] = {}
        if self.cache is not None and self.model_key is not None:
            hits = self.cache.get(self.model_key, prompt, keys)
        missing = [place for place, key in enumerate(keys) if key not in hits]
        if self.cache is not None and self.distributed and not alone:
            missing = _of_any_process(missing)
            for place in missing:
                hits.pop(keys[place], None)
        self.reused += len(items) - len(missing)
        fresh: Array | None = None
        if missing:
            fresh = self._run([items[place] for place in missing], prompt, alone)
            if self.cache is not None and self.model_key is not None:
                self.cache.put(self.model_key, prompt, [keys[place] for place in missing], fresh, keep=keep)
        width = fresh.shape[1] if fresh is not None else len(next(iter(hits.values())))
        vectors = np.empty((len(items), width), dtype=np.float32)
        if fresh is not None:
            vectors[missing] = fresh
        for place, key in enumerate(keys):
            if key in hits:
                vectors[place] = hits[key]
        self._sameness.setdefault(space, _Sameness()).see(keys, vectors)
        return self._cut(vectors)

    def _cut(self, vectors: Array) -> Array:
        if self.dim is None:
            return vectors
        if self.dim > vectors.shape[1]:
            raise UserError(f"cannot keep {self.dim} numbers of vectors that have {vectors.shape[1]}")
        return np.ascontiguousarray(vectors[:, : self.dim])

    def _run(self, items: list[Item], prompt: str | None, alone: bool) -> Array:
        """Vectors of `items` from the model; each process encodes its share when distributed, unless `alone`."""
        began = time.perf_counter()
        rank, world = _place() if self.distributed and not alone else (0, 1)
        share = items[rank * len(items) // world : (rank + 1) * len(items) // world]
        vectors = self._blocks_by_length(share, prompt)
        if world > 1:
            vectors = _gather(vectors, len(items), world)
        self.encoded += len(items)
        self.seconds += time.perf_counter() - began
        return vectors

    def _blocks_by_length(self, items: list[Item], prompt: str | None) -> Array:
        """Vectors of `items`, encoded longest first: blocks hold inputs of like length, memory peaks at the start."""
        sizes = [len(item) if isinstance(item, str) else 0 for item in items]
        order = sorted(range(len(items)), key=lambda i: -sizes[i])
        options = {} if prompt is None else {"prompt": prompt}
        parts: dict[int, Array] = {}
        batches = {start: order[start : start + self.block] for start in range(0, len(items), self.block)}
        jobs = ((start, encode_batch, ([items[i] for i in places], options)) for start, places in batches.items())
        count = 0
        for start, vectors in run_jobs(self.model, jobs):
            parts[start] = check_vectors(as_vectors(vectors), [items[i] for i in batches[start]])
            if len({part.shape[1] for part in parts.values()}) > 1:
                raise UserError("encode returned vectors of different sizes", where="the model")
            count += len(batches[start])
            if self.progress is not None:
                self.progress(count, len(items))
        if not parts:
            return np.empty((0, 0), dtype=np.float32)
        table = np.empty((len(items), parts[0].shape[1]), dtype=np.float32)
        table[order] = np.concatenate([parts[start] for start in batches])
        return table


def encode_batch(model: Any, items: list[Item], options: dict[str, Any]) -> Any:
    """What the model's ``encode`` returns for a batch of texts and images.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> encode_batch(SimpleNamespace(encode=lambda texts: np.ones((len(texts), 2))), ["a cat"], {}).shape
    (1, 2)
    """
    return model.encode([item if isinstance(item, str) else item.decode() for item in items], **options)


def _place() -> tuple[int, int]:
    """Rank and number of processes; (0, 1) outside torch.distributed."""
    import torch.distributed as dist

    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _of_any_process(missing: list[int]) -> list[int]:
    """What some process lacks: their caches differ where each has encoded a part of a corpus."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return missing
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, missing)
    return sorted(set().union(*parts))


def _gather(vectors: Array, total: int, world: int) -> Array:
    """The shares of all processes one after the other, on each of them."""
    import torch
    import torch.distributed as dist

    widths: list[Any] = [None] * world
    dist.all_gather_object(widths, vectors.shape[1])
    width = max(widths)
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    sizes = [(r + 1) * total // world - r * total // world for r in range(world)]
    buffer = torch.zeros(max(sizes), width, device=device)
    buffer[: len(vectors), : vectors.shape[1]] = torch.from_numpy(vectors).to(device)
    parts = [torch.empty_like(buffer) for _ in range(world)]
    dist.all_gather(parts, buffer)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).cpu().numpy()
