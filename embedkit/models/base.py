"""What every encoder offers to the trainer, to evaluation and to users."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import ModelError, UserError
from embedkit.models.inputs.inputs import Inputs
from embedkit.registry import services

Progress = bool | Callable[[int, int], None] | None


class Model(nn.Module):
    """Base class of encoders.

    Attributes
    ----------
    dim : int
        Size of the vectors that `encode` returns.
    max_length : int
        Tokens of an input at most, special tokens included.
    prompts : dict of str to str
        Prompt texts by name; a text with ``{}`` is a template around the input.
    default_prompt : str or None
        Name of the prompt that is used when none is given.
    normalize : bool
        Whether `encode` returns unit vectors by default.
    """

    kind: str = ""
    dim: int
    prompts: dict[str, str]
    default_prompt: str | None
    normalize: bool

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating point type of the parameters."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Tokens of an input at most, special tokens included."""

    @abstractmethod
    def prepare(self, inputs: Sequence[str], prompt: str | None = None) -> Inputs:
        """Tokenise on the CPU; safe to call from several threads. `prompt` is a name or a text."""

    @abstractmethod
    def forward(self, *inputs: Any, **settings: Any) -> Tensor:
        """Vectors (N, D) of `Inputs`, in input order, not normalised; settings are the encoder's own."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Everything besides weights and tokenizer that decides the vectors, as plain JSON values."""

    @abstractmethod
    def tokenizer_json(self) -> str:
        """The tokenizer as text, for the hash."""

    def encode(
        self,
        inputs: Sequence[str],
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        batch_tokens: int | None = None,
        progress: Progress = None,
    ) -> np.ndarray:
        """Vectors of texts, float32 (N, D), in input order.

        Parameters
        ----------
        inputs : sequence of str
            The texts; equal ones are computed once.
        prompt : str, optional
            Name or text of a prompt; the default prompt when None, none when ``""``.
        normalize : bool, optional
            Unit vectors; the model's own setting when None.
        truncate_dim : int, optional
            Keep the first coordinates only (Matryoshka, Kusupati et al. 2022), before normalisation.
        batch_tokens : int, optional
            Tokens of a batch at most (a longer single text is a batch of its own).
        progress : bool or callable, optional
            True shows a bar; a callable gets (texts done, texts in all).

        Raises
        ------
        DataError
            When an input is not a str; the index is named.
        NonFiniteError
            When a vector has NaN or infinity; the row is named.
        """
        from embedkit.models.encode.encoding import encode

        return encode(self, inputs, prompt, normalize, truncate_dim, batch_tokens, progress)

    def similarity(self, a: Any, b: Any) -> np.ndarray:
        """Cosine similarities, float32 (N, M), of vectors (N, D) and (M, D)."""
        a, b = (np.atleast_2d(np.asarray(x, dtype=np.float32)) for x in (a, b))
        if a.shape[1] != b.shape[1]:
            raise UserError(f"vectors have {a.shape[1]} and {b.shape[1]} coordinates", remedy="use one model for both")
        a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
        return a @ b.T

    def save(self, path: str | Path, *, recipe: dict[str, Any] | None = None, overwrite: bool = False) -> Path:
        """Write a model folder; see `embedkit.formats.save`."""
        folder: Path = services["save"](self, path, recipe=recipe, overwrite=overwrite)
        return folder

    @property
    def training_dim(self) -> int:
        """Size of the vectors that `forward` returns in training mode; train-only layers may change it."""
        return self.dim

    def gradient_checkpointing_enable(self) -> None:
        """Keep one activation a layer in training and compute the others again (Chen et al. 2016).

        Raises
        ------
        ModelError
            When the model has no layers.
        """
        raise ModelError(f"a {self.kind} model has no layers", remedy="leave train.gradient_checkpointing out")

    def compile_layers(self) -> None:
        """Compile what runs on all tokens alike with torch.compile; attention, whose groups change, stays as it is.

        Raises
        ------
        ModelError
            When the model has no layers.
        """
        raise ModelError(f"a {self.kind} model has no layers", remedy="leave train.compile out")

    def hash(self) -> str:
        """A name for exactly this encoder: 16 hexadecimal digits over weights, tokenizer and settings.

        Two models with equal hashes give equal vectors on the same machine; the device and the way of running do not
        enter.
        """
        digest = self._reading()
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def reading_hash(self) -> str:
        """A name for tokenizer and settings alone: what does not change in training, 16 hexadecimal digits."""
        return self._reading().hexdigest()[:16]

    def _reading(self) -> hashlib._Hash:
        digest = hashlib.sha256(json.dumps(self.spec(), sort_keys=True).encode())
        digest.update(self.tokenizer_json().encode())
        return digest

    def tensors(self) -> dict[str, Tensor]:
        """The weights as `save` writes them, by name."""
        return self.state_dict()

    def describe(self) -> dict[str, Any]:
        """What a score file says about the model."""
        return {
            "kind": self.kind,
            **self.spec(),
            "dim": self.dim,
            "dtype": str(self.dtype).removeprefix("torch."),
            "hash": self.hash(),
        }
