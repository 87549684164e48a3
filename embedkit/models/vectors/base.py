"""What all encoders of vectors share: the scale of their inputs, and encoding in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import UserError
from embedkit.models.base import Model
from embedkit.models.encode.encoding import first_not_finite, kept_dim, not_finite, reporter
from embedkit.models.modules.static import NO_LIMIT
from embedkit.models.vectors.scaling import Moments

if TYPE_CHECKING:
    from embedkit.models.encode.arguments import EncodeSettings

Scaling = Literal["none", "center", "standard"]


class VectorEncoder(Model):
    """An encoder of vectors, or of sequences of them; `prepare`, `forward`, `spec` and `items_of` are a subclass's.

    Attributes
    ----------
    width : int
        Numbers of an input, or of one step of it.
    scaling : str
        What is learnt from the training rows and applied in front: "none", "center", or "standard".
    mean, deviation : Tensor (W,)
        What was learnt.
    count : Tensor ()
        Of how many vectors or steps; 0 before.

    Examples
    --------
    >>> from embedkit.models import FeatureEncoder
    >>> model = FeatureEncoder(width=2, scaling="center")
    >>> isinstance(model, VectorEncoder), model.learns_inputs, model.input_width
    (True, True, 2)
    """

    width: int
    scaling: Scaling
    mean: Tensor
    deviation: Tensor
    count: Tensor

    def _begin(self, width: int, scaling: Scaling, normalize: bool, similarity_fn_name: str) -> None:
        """What the constructors of all have in common; before any layer is made."""
        self.width, self.scaling = width, scaling
        self.normalize, self.similarity_fn_name = normalize, similarity_fn_name
        self.tokenizer, self.prompts, self.default_prompt = None, {}, None
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @property
    def max_length(self) -> int:
        """Vectors have no length: as good as no limit."""
        return NO_LIMIT

    @property
    def input_width(self) -> int:
        """See `Model.input_width`."""
        return self.width

    @property
    def learns_inputs(self) -> bool:
        """See `Model.learns_inputs`: what was learnt once stays when the model is trained on."""
        return self.scaling != "none" and not int(self.count)

    def learn_inputs(self, blocks: Iterable[np.ndarray]) -> None:
        """Learn mean and deviations from the training rows, in float64.

        Parameters
        ----------
        blocks : iterable of float32 array (n, W)
            The rows, or the steps of their sequences; they are read once.

        Examples
        --------
        >>> from embedkit.models import FeatureEncoder
        >>> model = FeatureEncoder(width=2, scaling="center")
        >>> model.learn_inputs([np.array([[1.0, 2.0]]), np.array([[3.0, 2.0]])])
        >>> model.mean.tolist(), int(model.count)
        ([2.0, 2.0], 2)
        """
        self._learn_scale(Moments.of(blocks, self.width))

    def _learn_scale(self, moments: Moments) -> None:
        with torch.no_grad():
            self.count.fill_(moments.count)
            if self.scaling != "none":
                self.mean.copy_(torch.from_numpy(moments.mean))
            if self.scaling == "standard":
                self.deviation.copy_(torch.from_numpy(moments.deviation))

    def scaled(self, values: Tensor) -> Tensor:
        """Numbers (n, W) behind the scale that was learnt, in the type of the weights."""
        return (values.to(next(self.parameters()).dtype) - self.mean) / self.deviation

    def _no_prompt(self, prompt: str | None) -> None:
        if prompt:
            raise UserError(f"a {self.kind} model has no prompts", where="prompt", remedy="leave it out")

    def _no_settings(self, others: dict[str, Any], names: str) -> None:
        """Refuse settings of a forward pass that vectors do not have."""
        if others:
            raise UserError(f"a {self.kind} model has no {', '.join(others)}", where="method",
                            remedy=f"of the views of the encoder, it has {names}")  # fmt: skip

    def _slices(self, items: Any, settings: EncodeSettings) -> Iterator[slice]:
        """The blocks of `items` that are encoded at a time."""
        raise TypeError(f"{type(self).__name__} does not define _slices")

    def encode_items(self, items: Any, settings: EncodeSettings) -> np.ndarray:
        """See `Model.encode_items`."""
        dim = kept_dim(self, settings.truncate_dim)
        unit = self.normalize if settings.normalize is None else settings.normalize
        vectors = np.empty((len(items), dim), dtype=np.float32)
        was_training = self.training
        self.eval()
        try:
            with reporter(settings.progress, len(items), "vectors") as show, torch.inference_mode():
                for rows in self._slices(items, settings):
                    inputs: Any = self.prepare(items[rows], settings.prompt)
                    out = self(inputs.to(self.device))[:, :dim].float()
                    out = nn.functional.normalize(out, dim=-1) if unit else out
                    part = out.cpu().numpy()
                    bad = first_not_finite(part)
                    if bad is not None:
                        raise not_finite(rows.start + bad, items[rows.start + bad])
                    vectors[rows] = part
                    show(len(part))
        finally:
            self.train(was_training)
        return vectors

    def tokenizer_json(self) -> str:
        """Nothing: there is no tokenizer."""
        return ""
