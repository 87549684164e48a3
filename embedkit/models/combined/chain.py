"""An encoder and a map of its vectors, as one model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.data.vectors.values import Vectors
from embedkit.errors import ModelError
from embedkit.models.base import Model
from embedkit.models.combined.members import CombinedModel
from embedkit.models.inputs.vectors import VectorInputs
from embedkit.models.vectors.feature import FeatureEncoder

if TYPE_CHECKING:
    from embedkit.models.encode.arguments import EncodeSettings


class EncoderChain(CombinedModel):
    """The vectors of an encoder, mapped by an encoder of vectors: an adapter that has become part of what it adapts.

    Parameters
    ----------
    encoder : Model
        Any model; its inputs, prompts and length are those of the chain.
    head : FeatureEncoder
        Reads its vectors.
    unit : bool
        Whether the vectors are scaled to length 1 between the two, as `Model.encode` stores them by default.
    normalize, similarity_fn_name
        See `Model`; those of the head when not given.

    Raises
    ------
    ModelError
        The head reads vectors of another size.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> words, adapter = StaticEncoder(tokenizer(), dim=8), FeatureEncoder(width=8, dim=4)
    >>> chain = EncoderChain(words, adapter)
    >>> bool(np.allclose(chain.encode(["a dog"]), adapter.encode(words.encode(["a dog"]))))
    True
    """

    kind = "chain"

    def __init__(
        self, encoder: Model, head: FeatureEncoder, unit: bool = True, normalize: bool | None = None,
        similarity_fn_name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if encoder.dim != head.width:
            raise ModelError(
                f"the adapter reads vectors of {head.width} numbers, the encoder gives {encoder.dim}",
                remedy="name the encoder whose vectors it was trained on",
            )  # fmt: skip
        self.members = nn.ModuleList([encoder, head])
        self.unit, self.normalize = unit, head.normalize if normalize is None else normalize
        self.similarity_fn_name = similarity_fn_name or head.similarity_fn_name
        self.tokenizer, self.prompts, self.default_prompt = encoder.tokenizer, encoder.prompts, encoder.default_prompt
        self.preprocess = encoder.preprocess

    @property
    def encoder(self) -> Model:
        """What reads the inputs."""
        return self.models[0]

    @property
    def head(self) -> FeatureEncoder:
        """What maps its vectors."""
        head = self.members[1]
        assert isinstance(head, FeatureEncoder)
        return head

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Size of the vectors."""
        return self.head.dim

    @property
    def text_model(self) -> Model:
        """See `Model.text_model`."""
        return self.encoder.text_model

    @property
    def max_length(self) -> int:
        """See `Model.max_length`."""
        return self.encoder.max_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        self.encoder.max_length = value  # type: ignore[misc]  # encoders with a length have a setter

    @property
    def input_width(self) -> int | None:
        """See `Model.input_width`."""
        return self.encoder.input_width

    @property
    def learns_inputs(self) -> bool:
        """See `Model.learns_inputs`: of the encoder; what the head learns, it has learnt before."""
        return self.encoder.learns_inputs

    def learn_inputs(self, blocks: Iterable[np.ndarray]) -> None:
        """See `Model.learn_inputs`."""
        self.encoder.learn_inputs(blocks)

    def example_input(self) -> Any:
        """See `Model.example_input`."""
        return self.encoder.example_input()

    def items_of(self, inputs: Any) -> tuple[Any, bool]:
        """See `Model.items_of`."""
        return self.encoder.items_of(inputs)

    def prepare(self, inputs: Sequence[Any], prompt: str | None = None) -> Any:
        """What the encoder makes of inputs."""
        return self.encoder.prepare(inputs, prompt)

    def forward(self, inputs: Any, **settings: Any) -> Tensor:
        """Vectors (N, D), not normalised; settings are those of the encoder's forward pass."""
        vectors = self.encoder(inputs, **settings)
        vectors = nn.functional.normalize(vectors, dim=-1) if self.unit else vectors
        return self.head(VectorInputs(vectors, inputs.data))  # type: ignore[no-any-return]

    def encode_items(self, items: list[Any], settings: EncodeSettings) -> np.ndarray:
        """See `Model.encode_items`."""
        return self._mapped(self.encoder.encode_items(items, self._below(settings)), settings)

    def encode_texts(self, texts: Sequence[str], settings: EncodeSettings, first: int = 0) -> np.ndarray:
        """See `Model.encode_texts`."""
        return self._mapped(self.encoder.encode_texts(texts, self._below(settings), first), settings)

    def _below(self, settings: EncodeSettings) -> EncodeSettings:
        """The settings for the encoder: whole vectors, scaled as the head takes them."""
        return replace(settings, normalize=self.unit, truncate_dim=None)

    def _mapped(self, vectors: np.ndarray, settings: EncodeSettings) -> np.ndarray:
        unit = self.normalize if settings.normalize is None else settings.normalize
        own = replace(settings, prompt=None, normalize=unit, progress=None, batch_tokens=None, batch_size=None)
        return self.head.encode_items(Vectors(vectors), own)

    def own_spec(self) -> dict[str, Any]:
        """See `CombinedModel.own_spec`."""
        return {"unit": self.unit, "normalize": self.normalize, **self._similarity_spec()}

    @property
    def device(self) -> torch.device:
        """The device of the head."""
        return self.head.device
