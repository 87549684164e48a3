"""Encoders of sequences of vectors: series, frames, events; of any length, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.data.schema.rows import BadRow
from embedkit.data.vectors.sequences import Sequences, read_sequence
from embedkit.errors import DataError, ModelError
from embedkit.models.augment.counter_rng import step_uniforms, uniforms
from embedkit.models.inputs.sequences import SequenceInputs
from embedkit.models.vectors.base import Scaling, VectorEncoder
from embedkit.models.vectors.steps import Block, Convolution, Layout, Recurrence, positions, windowed

if TYPE_CHECKING:
    from embedkit.models.encode.arguments import EncodeSettings

Form = Literal["mean", "attention", "transformer", "gru"]

STEPS = 65_536
"""Steps that are encoded at a time."""


class SequenceEncoder(VectorEncoder):
    """An encoder of sequences (T, W), T any number, trained, saved and evaluated like every encoder.

    `patch` steps are joined into one, mapped to `hidden` numbers, and seen by `depth` layers. Each sequence is computed
    as if it were alone: there is no padding.

    Parameters
    ----------
    width : int
        Numbers of a step.
    dim : int
        Numbers of an output.
    form : str
        "mean": residual convolutions over `kernel` steps, dilated 1, 2, 4 ..., and the mean of the steps; "attention":
        the same, and a learned query weighs the steps; "transformer": attention among the steps, sines for their
        places, and the mean; "gru": the last state.
    hidden, depth, heads, kernel, dropout
        Of the layers.
    patch : int
        Steps that become one before the first layer; the last patch of a sequence is filled up with zeros.
    scaling : str
        "none", "center" or "standard": what is learnt from the steps of the training rows and applied in front.
    normalize, similarity_fn_name
        See `Model`.

    Examples
    --------
    >>> model = SequenceEncoder(width=2, dim=4, hidden=8)
    >>> model.encode([np.ones((5, 2)), np.ones((3, 2))]).shape, model.encode(np.ones((5, 2))).shape
    ((2, 4), (4,))
    """

    kind = "sequence"

    def __init__(
        self, width: int, dim: int = 128, form: Form = "mean", hidden: int = 64, depth: int = 3, heads: int = 4,
        kernel: int = 3, patch: int = 1, dropout: float = 0.0, scaling: Scaling = "standard", normalize: bool = True,
        similarity_fn_name: str = "cosine",
    ) -> None:  # fmt: skip
        super().__init__()
        if form == "transformer" and hidden % heads:
            raise ModelError(f"hidden {hidden} is no multiple of heads {heads}", where="model.sequence")
        self._begin(width, scaling, normalize, similarity_fn_name)
        self.dim, self.form, self.hidden, self.depth, self.heads = dim, form, hidden, depth, heads
        self.kernel, self.patch, self.dropout = kernel, patch, dropout
        self.first = nn.Linear(patch * width, hidden)
        self.layers = nn.ModuleList(self._layer(place) for place in range(1 if form == "gru" else depth))
        self.norm = nn.LayerNorm(hidden)
        self.query = nn.Parameter(torch.zeros(hidden)) if form == "attention" else None
        self.last = nn.Linear(hidden, dim)

    def _layer(self, place: int) -> nn.Module:
        if self.form == "gru":
            return Recurrence(self.hidden, self.depth, self.dropout)
        if self.form == "transformer":
            return Block(self.hidden, self.heads, self.dropout)
        return Convolution(self.hidden, self.kernel, 2**place, self.dropout)

    def has_dropout(self) -> bool:
        """See `Model.has_dropout`."""
        return self.dropout > 0 and (self.form != "gru" or self.depth > 1)

    def items_of(self, inputs: Any) -> tuple[Any, bool]:
        """See `Model.items_of`: an array (T, W) is one sequence, an array (N, T, W) or a list of arrays are several.

        Where a step is one number, an array (N, T) is several, and a list of plain numbers is one.
        """
        if isinstance(inputs, Sequences):
            return inputs, False
        if isinstance(inputs, Tensor):
            inputs = inputs.detach().cpu().float().numpy()
        values = inputs if isinstance(inputs, np.ndarray) else list(inputs)
        if isinstance(values, np.ndarray):
            one = values.ndim == 1 or (values.ndim == 2 and (self.width > 1 or values.shape[1] == 1))
        else:
            one = bool(values) and isinstance(values[0], int | float | np.number)
        items = [values] if one else list(values)
        return self._block(items, self._read(items)), one

    def _read(self, items: Sequence[Any]) -> Iterator[np.ndarray]:
        for place, item in enumerate(items):
            if isinstance(item, Tensor):
                item = item.detach().cpu().float().numpy()
            if isinstance(item, str | bytes) or item is None:
                what = (
                    f"a sequence model reads sequences, and input {place} is {type(item).__name__} {str(item)[:40]!r}"
                )
                raise DataError(what, remedy=f"give arrays (T, {self.width}) of numbers")
            try:
                yield read_sequence(item)
            except BadRow as bad:
                raise DataError(bad.what, where=f"input {place}", remedy=f"give arrays (T, {self.width})") from bad

    def _block(self, items: Sequence[Any], arrays: Iterator[np.ndarray]) -> Sequences:
        try:
            return items if isinstance(items, Sequences) else Sequences.of(list(arrays))
        except BadRow as bad:
            raise DataError(bad.what, where="inputs", remedy=f"give arrays (T, {self.width})") from bad

    def prepare(self, inputs: Sequence[Any], prompt: str | None = None) -> SequenceInputs:  # type: ignore[override]
        """`SequenceInputs` of sequences.

        Raises
        ------
        DataError
            They are no sequences, or their steps are of another size.
        """
        self._no_prompt(prompt)
        block = self._block(inputs, self._read(inputs))
        if not len(block):
            return SequenceInputs(torch.zeros(0, self.width), np.zeros(0, np.int64))
        if block.array.shape[1] != self.width:
            raise DataError(
                f"the steps have {block.array.shape[1]} numbers, the model reads {self.width}", where="inputs",
                remedy="give the sequences that it was trained on, or set model.sequence.width",
            )  # fmt: skip
        return SequenceInputs.of(block)

    def forward(
        self, inputs: SequenceInputs, noise: float = 0.0, element_cutoff: float = 0.0, column_cutoff: float = 0.0,
        **others: Any,
    ) -> Tensor:  # fmt: skip
        """Vectors (N, D), not normalised.

        Parameters
        ----------
        inputs : SequenceInputs
            N sequences; with ``seeds`` where anything is drawn.
        noise : float
            Standard deviation of Gaussian noise on the scaled numbers.
        element_cutoff, column_cutoff : float
            Share of the scaled numbers of each step, or of the columns of each sequence, that become 0.

        Raises
        ------
        UserError
            Another setting of a forward pass, which sequences do not have.
        """
        self._no_settings(others, "noise, element-cutoff and column-cutoff")
        if not len(inputs):
            return self.last(self.norm(self.first(self.scaled(inputs.values.new_zeros(0, self.width * self.patch)))))  # type: ignore[no-any-return]
        x = self._changed(inputs, noise, element_cutoff, column_cutoff)
        layout = Layout(inputs.costs, x.device)
        if self.patch > 1:
            index, layout = layout.windows(self.patch, self.patch, centred=False)
            x = windowed(x, index)
        x = self.first(x)
        if self.form == "transformer":
            x = x + positions(layout.places, self.hidden).to(x)
        for layer in self.layers:
            x = layer(x, layout)
        x = self.norm(x)
        if self.form == "gru":
            return self.last(x)  # type: ignore[no-any-return]
        if self.query is not None:
            weights = layout.softmax((x @ self.query) * self.hidden**-0.5)
            return self.last(layout.sums(weights[:, None] * x))  # type: ignore[no-any-return]
        return self.last(layout.mean(x))  # type: ignore[no-any-return]

    def _changed(self, inputs: SequenceInputs, noise: float, element_cutoff: float, column_cutoff: float) -> Tensor:
        x = self.scaled(inputs.values)
        if noise:
            radius = np.sqrt(-2.0 * np.log1p(-step_uniforms(inputs, "vector-noise", self.width)))
            angle = 2.0 * np.pi * step_uniforms(inputs, "vector-noise angle", self.width)
            x = x + noise * torch.from_numpy(radius * np.cos(angle)).to(x)  # Box and Muller 1958
        if element_cutoff:
            mask = step_uniforms(inputs, "element-cutoff", self.width) >= element_cutoff
            x = x * torch.from_numpy(mask).to(x)
        if column_cutoff:
            mask = uniforms(inputs, "column-cutoff", self.width) >= column_cutoff  # type: ignore[arg-type]
            x = x * torch.from_numpy(mask[inputs.owner]).to(x)
        return x

    def _slices(self, items: Any, settings: EncodeSettings) -> Iterator[slice]:
        budget, most = settings.batch_tokens or STEPS, settings.batch_size or len(items)
        start = 0
        ends = np.cumsum(items.lengths)
        while start < len(items):
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
            stop = min(stop, start + most, len(items))
            yield slice(start, stop)
            start = stop

    def example_input(self) -> np.ndarray:
        """See `Model.example_input`."""
        return np.ones((4 * self.patch, self.width), np.float32)

    def spec(self) -> dict[str, Any]:
        """Settings that decide the vectors."""
        return {
            "width": self.width, "dim": self.dim, "form": self.form, "hidden": self.hidden, "depth": self.depth,
            "heads": self.heads, "kernel": self.kernel, "patch": self.patch, "dropout": self.dropout,
            "scaling": self.scaling, "normalize": self.normalize, **self._similarity_spec(),
        }  # fmt: skip
