"""Encoders of vectors from elsewhere: scaling learnt from the data, then a linear map, an MLP or a residual adapter."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.data.schema.rows import BadRow
from embedkit.data.vectors.values import Vectors, as_float32, stacked
from embedkit.errors import DataError, ModelError
from embedkit.models.augment.counter_rng import uniforms
from embedkit.models.inputs.vectors import VectorInputs
from embedkit.models.vectors.base import Scaling, VectorEncoder
from embedkit.models.vectors.places import check_places, waves_of, waves_width
from embedkit.models.vectors.scaling import Moments

if TYPE_CHECKING:
    from embedkit.models.encode.arguments import EncodeSettings

Form = Literal["linear", "mlp", "residual"]
Start = Literal["identity", "orthogonal", "pca", "random"]
BLOCK = 16_384
"""Vectors that are encoded at a time."""


class FeatureEncoder(VectorEncoder):
    """A map of vectors to vectors, trained, saved and evaluated like every encoder.

    Parameters
    ----------
    width : int
        Numbers of an input.
    dim : int, optional
        Numbers of an output; `width` when not given.
    form : str
        "linear": one linear map. "mlp": `depth` hidden layers of size `hidden`. "residual": the input (through a linear
        map where `dim` differs) plus an MLP that starts at zero, so that training starts from the vectors as they are.
    hidden, depth, dropout
        Of the MLP; `hidden` is `width` when not given.
    start : str
        The linear map at first: "identity" (the first `dim` numbers), "orthogonal" (random), "pca" (the principal axes
        of the training rows), or "random" (PyTorch's own).
    scaling : str
        What is learnt from the training rows and applied in front: "none", "center" (their mean is subtracted), or
        "standard" (each number is divided by its deviation, too).
    normalize, similarity_fn_name
        See `Model`.
    waves : int, optional
        Inputs are places, latitude and longitude in degrees: waves of so many lengths are made of them first (see
        `embedkit.models.vectors.places.waves_of`).

    Examples
    --------
    >>> model = FeatureEncoder(width=8, dim=4)
    >>> model.encode(np.eye(8, dtype=np.float32)).shape, model.encode(np.ones(8)).shape
    ((8, 4), (4,))
    """

    kind = "feature"

    def __init__(
        self, width: int, dim: int | None = None, form: Form = "linear", hidden: int | None = None, depth: int = 1,
        dropout: float = 0.0, start: Start = "identity", scaling: Scaling = "none", normalize: bool = True,
        similarity_fn_name: str = "cosine", waves: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if waves is not None and (width != 2 or scaling != "none" or start == "pca"):
            raise ModelError("waves are made of latitude and longitude as they are", where="model.feature.waves",
                             remedy="give width 2, scaling none, another start than pca")  # fmt: skip
        self._begin(width, scaling, normalize, similarity_fn_name)
        self.waves, self._reads = waves, width if waves is None else waves_width(waves)
        self.dim, self.form, self.start = dim or self._reads, form, start
        self.hidden, self.depth, self.dropout = hidden or self._reads, depth, dropout
        if start == "pca" and form != "mlp" and self.dim > self._reads:
            what = f"it is {self.dim}, and inputs of {self._reads} numbers have {self._reads} principal axes"
            remedy = f"give {self._reads} at most, or another start than pca"
            raise ModelError(what, where="model.feature.dim", remedy=remedy)
        self.linear = None if form == "mlp" or (form == "residual" and self.dim == self._reads) else self._linear()
        self.layers = None if form == "linear" else self._mlp(zero=form == "residual")

    def _linear(self) -> nn.Linear:
        layer = nn.Linear(self._reads, self.dim, bias=self.start == "random")
        if self.start in ("identity", "pca"):
            nn.init.eye_(layer.weight)
        elif self.start == "orthogonal":
            nn.init.orthogonal_(layer.weight)
        return layer

    def _mlp(self, zero: bool) -> nn.Sequential:
        sizes = [self._reads, *[self.hidden] * self.depth]
        modules: list[nn.Module] = []
        for size, after in itertools.pairwise(sizes):
            modules += [nn.Linear(size, after), nn.GELU(), *([nn.Dropout(self.dropout)] if self.dropout else [])]
        last = nn.Linear(sizes[-1], self.dim)
        if zero:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        return nn.Sequential(*modules, last)

    @property
    def learns_inputs(self) -> bool:
        """See `Model.learns_inputs`: what was learnt once stays when the model is trained on."""
        return (self.scaling != "none" or self.start == "pca") and not int(self.count)

    def learn_inputs(self, blocks: Iterable[np.ndarray]) -> None:
        """Learn mean, deviations and, for the start "pca", principal axes from the training rows, in float64.

        Parameters
        ----------
        blocks : iterable of float32 array (n, W)
            The rows; they are read once.

        Examples
        --------
        >>> model = FeatureEncoder(width=2, scaling="center")
        >>> model.learn_inputs([np.array([[1.0, 2.0]]), np.array([[3.0, 2.0]])])
        >>> model.mean.tolist(), int(model.count)
        ([2.0, 2.0], 2)
        """
        moments = Moments.of(blocks, self.width)
        self._learn_scale(moments)
        if self.start == "pca" and self.linear is not None:
            wide = self.deviation.double().cpu().numpy()
            with torch.no_grad():
                self.linear.weight.copy_(torch.from_numpy(_axes(moments.covariance / np.outer(wide, wide), self.dim)))

    def items_of(self, inputs: Any) -> tuple[Any, bool]:
        """See `Model.items_of`: an array (W,) is one vector, an array (N, W) or a list of vectors are several."""
        if isinstance(inputs, Vectors):
            return inputs, False
        if isinstance(inputs, Tensor):
            inputs = inputs.detach().cpu().float().numpy()
        values = inputs if isinstance(inputs, np.ndarray) else list(inputs)
        if not isinstance(values, np.ndarray):
            single = bool(values) and isinstance(values[0], int | float | np.number)
            values = np.asarray(values) if single else self._stacked(values)
        if values.ndim not in (1, 2) or values.dtype.kind not in "fiu":
            shape = f"{values.dtype} {values.shape}"
            raise DataError(f"inputs are {shape}", remedy=f"give vectors: an array (N, {self.width}) of numbers")
        return Vectors(as_float32(np.atleast_2d(values))), values.ndim == 1

    def _stacked(self, inputs: Sequence[Any]) -> np.ndarray:
        if isinstance(inputs, Vectors):
            return inputs.array
        for place, value in enumerate(inputs):
            if not isinstance(value, np.ndarray | Tensor | list | tuple):
                what = f"a feature model reads vectors, and input {place} is {type(value).__name__} {str(value)[:40]!r}"
                raise DataError(what, remedy=f"give arrays of {self.width} numbers")
        try:
            return stacked(inputs)
        except BadRow as bad:
            raise DataError(bad.what, where="inputs", remedy=f"give arrays of {self.width} numbers") from bad

    def prepare(self, inputs: Sequence[Any], prompt: str | None = None) -> VectorInputs:  # type: ignore[override]
        """`VectorInputs` of vectors.

        Raises
        ------
        DataError
            They are no vectors, or of another size.
        """
        self._no_prompt(prompt)
        values = self._stacked(inputs) if len(inputs) else np.zeros((0, self.width), np.float32)
        if values.shape[1] != self.width:
            raise DataError(
                f"the vectors have {values.shape[1]} numbers, the model reads {self.width}", where="inputs",
                remedy="give vectors of the encoder whose vectors it was trained on",
            )  # fmt: skip
        if self.waves is not None:
            check_places(values)
        return VectorInputs(torch.from_numpy(values if values.flags.writeable else values.copy()))

    def forward(
        self, inputs: VectorInputs, noise: float = 0.0, element_cutoff: float = 0.0, **others: Any
    ) -> Tensor:  # fmt: skip
        """Vectors (N, D), not normalised.

        Parameters
        ----------
        inputs : VectorInputs
            N vectors; with ``seeds`` where anything is drawn.
        noise : float
            Standard deviation of Gaussian noise on the scaled numbers.
        element_cutoff : float
            Share of the scaled numbers of each vector that become 0.

        Raises
        ------
        UserError
            Another setting of a forward pass, which vectors do not have.
        """
        self._no_settings(others, "noise and element-cutoff")
        x = self.scaled(inputs.values)
        x = x if self.waves is None else waves_of(x, self.waves)
        if noise:
            x = x + noise * torch.from_numpy(_normals(inputs, self._reads)).to(x)
        if element_cutoff:
            mask = uniforms(inputs, "element-cutoff", self._reads) >= element_cutoff  # type: ignore[arg-type]
            x = x * torch.from_numpy(mask).to(x)
        if self.layers is None:
            return self.linear(x)  # type: ignore[misc, no-any-return]
        if self.form == "mlp":
            return self.layers(x)  # type: ignore[no-any-return]
        return (x if self.linear is None else self.linear(x)) + self.layers(x)  # type: ignore[no-any-return]

    def _slices(self, items: Any, settings: EncodeSettings) -> Iterator[slice]:
        size = settings.batch_size or settings.batch_tokens or BLOCK
        return (slice(start, start + size) for start in range(0, len(items), size))

    def example_input(self) -> np.ndarray:
        """See `Model.example_input`."""
        return np.ones(self.width, np.float32)

    def spec(self) -> dict[str, Any]:
        """Settings that decide the vectors."""
        return {
            "width": self.width, "dim": self.dim, "form": self.form, "hidden": self.hidden, "depth": self.depth,
            "dropout": self.dropout, "start": self.start, "scaling": self.scaling, "normalize": self.normalize,
            **self._similarity_spec(), **({} if self.waves is None else {"waves": self.waves}),
        }  # fmt: skip


def _axes(covariance: np.ndarray, count: int) -> np.ndarray:
    """The first `count` principal axes (count, W), each with its largest number positive."""
    axes = np.linalg.eigh(covariance)[1].T[::-1][:count]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return axes * signs[:, None]


def _normals(inputs: VectorInputs, width: int) -> np.ndarray:
    """Standard normal numbers, float64 (N, width), that depend on the seeds only (Box and Muller 1958)."""
    radius = np.sqrt(-2.0 * np.log1p(-uniforms(inputs, "vector-noise", width)))  # type: ignore[arg-type]
    return radius * np.cos(2.0 * np.pi * uniforms(inputs, "vector-noise angle", width))  # type: ignore[arg-type]
