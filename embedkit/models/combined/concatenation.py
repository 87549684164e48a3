"""Several encoders as one: their vectors side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.models.base import Model
from embedkit.models.combined.members import CombinedModel
from embedkit.models.encode.encoding import kept_dim, reporter
from embedkit.models.inputs.tokens import resolve_prompt
from embedkit.models.modules.static import StaticEncoder

if TYPE_CHECKING:
    from embedkit.models.encode.arguments import EncodeSettings


class EncoderConcatenation(CombinedModel):
    """The vectors of several encoders of the same inputs, one behind the other.

    With unit vectors u_i and weights w_i the cosine of two inputs is ``Σ w_i² cos_i / Σ w_i²``. Multistage contrastive
    learning (Zhang et al. 2024) represents an input so by the encoders of all its stages.

    Parameters
    ----------
    members : sequence of Model
        Text encoders, or dual encoders, which take images too. Each keeps its tokenizer, length and prompts.
    weights : sequence of float, optional
        A positive factor on the vectors of each member; 1 when None.
    unit : bool
        Whether the members' vectors are scaled to length 1 before their weight.
    normalize : bool
        Unit vectors from `encode`.
    similarity_fn_name : str
        See `Model`.

    Raises
    ------
    ModelError
        Fewer than two members, weights that do not fit, or members of texts and others of images.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> model = EncoderConcatenation([StaticEncoder(tokenizer(), dim=8), StaticEncoder(tokenizer(), dim=4)])
    >>> model.encode(["a dog", "two cats"]).shape, model.dim
    ((2, 12), 12)
    """

    kind = "concatenation"

    def __init__(
        self, members: Sequence[Model], weights: Sequence[float] | None = None, unit: bool = True,
        normalize: bool = True, similarity_fn_name: str = "cosine",
    ) -> None:  # fmt: skip
        super().__init__()
        if len(members) < 2:
            raise ModelError(f"{len(members)} model, and there is nothing to put beside it", remedy="name two or more")
        if len({member.preprocess is None for member in members}) > 1:
            raise ModelError("some of the models take images and some do not",
                             remedy="put text encoders together, or dual encoders")  # fmt: skip
        self.weights = [1.0] * len(members) if weights is None else [float(weight) for weight in weights]
        if len(self.weights) != len(members):
            raise ModelError(f"{len(self.weights)} weights for {len(members)} models", where="weights",
                             remedy="give one for each model")  # fmt: skip
        if not all(0 < weight < float("inf") for weight in self.weights):
            raise ModelError(f"weights are {self.weights}", where="weights", remedy="give positive numbers")
        self.members = nn.ModuleList(members)
        self.unit, self.normalize = unit, normalize
        self.similarity_fn_name = similarity_fn_name
        self.tokenizer = members[0].tokenizer
        self.default_prompt = None  # each member has its own
        self.prompts = {name: text for member in reversed(members) for name, text in member.prompts.items()}
        self.preprocess = members[0].preprocess

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Size of the vectors: the sum of the members' sizes."""
        return sum(member.dim for member in self.models)

    @property
    def text_model(self) -> Model:
        """What reads texts in the first member."""
        return self.models[0].text_model

    @property
    def max_length(self) -> int:
        """Tokens of a text that every member reads."""
        return min(member.max_length for member in self.models)

    @max_length.setter
    def max_length(self, value: int) -> None:
        for member in self.models:
            member.max_length = value  # type: ignore[misc]  # encoders with a length have a setter

    def encode_texts(self, texts: Sequence[str], settings: EncodeSettings, first: int = 0) -> np.ndarray:
        """Vectors of texts; see `Model.encode_texts`."""
        return self._side_by_side(lambda member, own: member.encode_texts(texts, own, first), settings, len(texts))

    def encode_items(self, items: list[Any], settings: EncodeSettings) -> np.ndarray:
        """Vectors of texts, or images where the members take them; see `Model.encode_items`."""
        return self._side_by_side(lambda member, own: member.encode_items(items, own), settings, len(items))

    def _side_by_side(self, encode: Any, settings: EncodeSettings, count: int) -> np.ndarray:
        """What `encode(member, settings)` gives for all members, weighted, whole, cut and normalised."""
        dim = kept_dim(self, settings.truncate_dim)
        resolve_prompt(settings.prompt, self.prompts, None)  # refuses a name that no member has
        parts = []
        with reporter(settings.progress, count * len(self.weights), "inputs") as show:
            for member, weight in zip(self.models, self.weights, strict=True):
                parts.append(weight * encode(member, self._own(member, settings)))
                show(count)
        whole = np.concatenate(parts, axis=1, dtype=np.float32)[:, :dim]
        if self.normalize if settings.normalize is None else settings.normalize:
            whole = torch.nn.functional.normalize(torch.from_numpy(whole), dim=-1).numpy()
        return np.ascontiguousarray(whole)

    def _own(self, member: Model, settings: EncodeSettings) -> EncodeSettings:
        """The settings for a member: a named prompt that it does not have is its default one."""
        lacks = settings.prompt in self.prompts and settings.prompt not in member.prompts
        return replace(settings, prompt=None if lacks else settings.prompt, normalize=self.unit, truncate_dim=None,
                       progress=None)  # fmt: skip

    def merged(self) -> StaticEncoder | None:
        """One static encoder with the same vectors, None where there is none: the means of rows that stand side by side
        are the means side by side, for one tokenizer and vectors that are not scaled to length 1."""
        members = [member for member in self.models if isinstance(member, StaticEncoder)]
        settings = {json.dumps([member.spec() | {"normalize": None}, member.tokenizer_json()]) for member in members}
        if self.unit or len(members) < len(self.weights) or len(settings) > 1 or members[0].ngrams > 1:
            return None
        table = [weight * one.embedding.weight.detach() for weight, one in zip(self.weights, members, strict=True)]
        first = members[0]
        return StaticEncoder(
            first.tokenizer, self.dim, weight=torch.cat(table, dim=1), max_length=first.max_length,
            normalize=self.normalize, prompts=first.prompts, default_prompt=first.default_prompt,
            similarity_fn_name=self.similarity_fn_name,
        ).eval()  # fmt: skip

    def prepare(self, inputs: Sequence[str], prompt: str | None = None) -> NoReturn:
        """Refused: the members have tokens of their own.

        Raises
        ------
        ModelError
            Always.
        """
        raise ModelError("has no tokens of its own, only its members have", where="concatenation",
                         remedy="use encode, or one of its models")  # fmt: skip

    def forward(self, *inputs: Any, **settings: Any) -> Tensor:
        """Refused, as `prepare` is.

        Raises
        ------
        ModelError
            Always.
        """
        raise ModelError("encodes only", where="concatenation", remedy="train one of its models, then fuse again")

    def own_spec(self) -> dict[str, Any]:
        """The settings that are not those of members."""
        return {"weights": self.weights, "unit": self.unit, "normalize": self.normalize, **self._similarity_spec()}
