"""Vectors that have been computed before, in memory or in a folder, shared by suites, models, calls and processes.

A vector is found by what decides it: the model's key (weights, tokenizer, pooler, length, precision), the prompt, and
the content of the input. In a folder each call of `put` writes one safetensors file under a temporary name and renames
it, so that several processes can write and a killed one leaves nothing half written that would be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedkit.disk import write_durably
from embedkit.errors import UserError
from embedkit.evaluation.stats import Array

KEY_BYTES = 16


class EmbeddingCache:
    """A store of float32 vectors.

    Parameters
    ----------
    folder : path, optional
        Where the vectors are kept; without it they live as long as this object.

    Attributes
    ----------
    hits, misses : int
        Inputs asked for and found, or not, since the object was made.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else None
        try:
            usable = self.folder is None or self.folder.is_dir() or not self.folder.exists()
        except (OSError, ValueError):  # too long, NUL, no permission
            usable = False
        if not usable:
            raise UserError("no folder can be there", where=str(folder)[:200], remedy="give another cache")
        self.hits = self.misses = 0
        self._spaces: dict[str, dict[bytes, Array]] = {}

    def get(self, model_key: str, prompt: str | None, keys: Sequence[bytes]) -> dict[bytes, Array]:
        """The vectors (D,) of those `keys` (16 bytes each) that are known."""
        space = self._open(self._space(model_key, prompt))
        found = {key: space[key] for key in keys if key in space}
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        return found

    def put(self, model_key: str, prompt: str | None, keys: Sequence[bytes], vectors: Array) -> None:
        """Keep `vectors` (N, D) under `keys`."""
        name = self._space(model_key, prompt)
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._open(name).update(zip(keys, vectors, strict=True))
        if self.folder is not None and len(keys):
            self._write(self.folder / name, keys, vectors)

    def _space(self, model_key: str, prompt: str | None) -> str:
        said = "none" if prompt is None else f"prompt {prompt}"
        return hashlib.sha256(f"{model_key}\n{said}".encode()).hexdigest()[:32]

    def _open(self, name: str) -> dict[bytes, Array]:
        """The vectors of one model and prompt; read from the folder the first time."""
        if name not in self._spaces:
            space: dict[bytes, Array] = {}
            if self.folder is not None and (self.folder / name).is_dir():
                for path in sorted((self.folder / name).glob("*.safetensors")):
                    space.update(_read(path))
            self._spaces[name] = space
        return self._spaces[name]

    def _write(self, folder: Path, keys: Sequence[bytes], vectors: Array) -> None:
        from safetensors.numpy import save

        table = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES)
        content = save({"keys": table, "vectors": vectors})
        final = folder / f"{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
        write_durably(final, content, "the embedding cache")


def _read(path: Path) -> dict[bytes, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        parts = load_file(path)
        keys, vectors = parts["keys"], parts["vectors"]
        if keys.shape != (len(vectors), KEY_BYTES) or vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ValueError("unexpected shapes")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"damaged embedding cache: {error}", where=str(path), remedy="delete this file") from error
    return dict(zip(map(bytes, keys), vectors, strict=True))
