"""Vectors that have been computed before, in memory or in a folder, shared by suites, models, calls and processes.

A vector is found by what decides it: the model's key (weights, tokenizer, pooler, length, precision), the prompt, and
the content of the input. In a folder each call of `put` writes one safetensors file under a temporary name and renames
it, so that several processes can write and a killed one leaves nothing half written that would be read. Of a folder
only the keys are held in memory; vectors are read when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import UserError
from embedkit.evaluation.core.stats import Array
from embedkit.system.disk import write_durably

KEY_BYTES = 16


class EmbeddingCache:
    """A store of float32 vectors.

    Parameters
    ----------
    folder : path, optional
        Where the vectors are kept; without it they are kept in memory, as long as this object lives.

    Examples
    --------
    >>> cache = EmbeddingCache()
    >>> cache.put("model", None, [b"1" * 16], np.array([[0.6, 0.8]]))
    >>> cache.get("model", None, [b"1" * 16, b"2" * 16])
    {b'1111111111111111': array([0.6, 0.8], dtype=float32)}
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else None
        try:
            usable = self.folder is None or self.folder.is_dir() or not self.folder.exists()
        except (OSError, ValueError):  # too long, NUL, no permission
            usable = False
        if not usable:
            raise UserError("no folder can be there", where=str(folder)[:200], remedy="give another cache")
        self._memory: dict[str, dict[bytes, Array]] = {}
        self._shelves: dict[str, _Shelf] = {}

    def get(self, model_key: str, prompt: str | None, keys: Sequence[bytes]) -> dict[bytes, Array]:
        """The vectors (D,) of those `keys` (16 bytes each) that are known.

        Raises
        ------
        UserError
            A file in the folder is damaged; it is named.
        """
        name = self._space(model_key, prompt)
        if self.folder is not None:
            return self._open(name).get(keys)
        vectors = self._memory.get(name, {})
        return {key: vectors[key] for key in keys if key in vectors}

    def put(
        self, model_key: str, prompt: str | None, keys: Sequence[bytes], vectors: Array, *, keep: bool = True
    ) -> None:
        """Take `vectors` (N, D) under `keys`: into the folder, or else, unless `keep` is False, into memory."""
        name = self._space(model_key, prompt)
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if self.folder is None:
            if keep:
                self._memory.setdefault(name, {}).update(zip(keys, vectors, strict=True))
        elif len(keys):
            self._open(name).put(keys, vectors)

    def _space(self, model_key: str, prompt: str | None) -> str:
        prompt_part = "none" if prompt is None else f"prompt {prompt}"
        return hashlib.sha256(f"{model_key}\n{prompt_part}".encode()).hexdigest()[:32]

    def _open(self, name: str) -> _Shelf:
        """The folder of one model and prompt; its keys are read the first time."""
        assert self.folder is not None
        if name not in self._shelves:
            self._shelves[name] = _Shelf(self.folder / name)
        return self._shelves[name]


class _Shelf:
    """The folder of one model and prompt: where the vector of each key stands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[Path] = []
        self._places: dict[bytes, tuple[int, int]] = {}  # number of the file, row
        if folder.is_dir():
            for path in sorted(folder.glob("*.safetensors")):
                with _opened(path) as (keys, _):
                    self._add(path, [bytes(row) for row in keys[:]])

    def _add(self, path: Path, keys: Sequence[bytes]) -> None:
        self._places.update((key, (len(self._files), row)) for row, key in enumerate(keys))
        self._files.append(path)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Array]:
        """See `EmbeddingCache.get`; each file is opened once, and no more of it is read than lies between two rows."""
        by_file: dict[int, dict[bytes, int]] = {}
        for key in keys:
            if key in self._places:
                number, row = self._places[key]
                by_file.setdefault(number, {})[key] = row
        vectors_by_key: dict[bytes, Array] = {}
        for number, rows in by_file.items():
            low, high = min(rows.values()), max(rows.values())
            with _opened(self._files[number]) as (_, vectors):
                part = vectors[low : high + 1]
            vectors_by_key.update((key, part[row - low]) for key, row in rows.items())
        return vectors_by_key

    def put(self, keys: Sequence[bytes], vectors: Array) -> None:
        """Write a file of `vectors`, float32 (N, D)."""
        from safetensors.numpy import save

        table = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES)
        content = save({"keys": table, "vectors": vectors})
        final = self._folder / f"{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
        write_durably(final, content, "the embedding cache")
        self._add(final, keys)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The keys and the vectors of a file, to take slices of."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            keys, vectors = file.get_slice("keys"), file.get_slice("vectors")
            size = vectors.get_shape()
            if len(size) != 2 or keys.get_shape() != [size[0], KEY_BYTES]:
                raise ValueError("unexpected shapes")
            if (keys.get_dtype(), vectors.get_dtype()) != ("U8", "F32"):
                raise ValueError("unexpected types")
            yield keys, vectors
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"damaged embedding cache: {error}", where=str(path), remedy="delete this file") from error
