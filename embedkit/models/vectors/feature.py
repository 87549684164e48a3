"""Encoders of vectors from elsewhere: scaling learnt from the data, then a linear map, an MLP or a residual adapter."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.data.schema.rows import BadRow
from embedkit.data.vectors.values import Vectors, as_float32, stacked
from embedkit.errors import DataError, UserError
from embedkit.models.augment.counter_rng import uniforms
from embedkit.models.base import Model
from embedkit.models.encode.encoding import first_not_finite, kept_dim, not_finite, reporter
from embedkit.models.inputs.vectors import VectorInputs
from embedkit.models.modules.static import NO_LIMIT

if TYPE_CHECKING:
    from embedkit.models.encode.arguments import EncodeSettings

Form = Literal["linear", "mlp", "residual"]
Start = Literal["identity", "orthogonal", "pca", "random"]
Scaling = Literal["none", "center", "standard"]
FORMS, STARTS, SCALINGS = get_args(Form), get_args(Start), get_args(Scaling)

BLOCK = 16_384
"""Vectors that are encoded at a time."""


class FeatureEncoder(Model):
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

    Examples
    --------
    >>> model = FeatureEncoder(width=8, dim=4)
    >>> model.encode(np.eye(8, dtype=np.float32)).shape, model.encode(np.ones(8)).shape
    ((8, 4), (4,))
    """

    kind = "feature"
    mean: Tensor
    deviation: Tensor
    count: Tensor

    def __init__(
        self, width: int, dim: int | None = None, form: Form = "linear", hidden: int | None = None, depth: int = 1,
        dropout: float = 0.0, start: Start = "identity", scaling: Scaling = "none", normalize: bool = True,
        similarity_fn_name: str = "cosine",
    ) -> None:  # fmt: skip
        super().__init__()
        self.width, self.dim, self.form, self.start, self.scaling = width, dim or width, form, start, scaling
        self.hidden, self.depth, self.dropout = hidden or width, depth, dropout
        self.normalize, self.similarity_fn_name = normalize, similarity_fn_name
        self.tokenizer, self.prompts, self.default_prompt = None, {}, None
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.linear = None if form == "mlp" or (form == "residual" and self.dim == width) else self._linear()
        self.layers = None if form == "linear" else self._mlp(zero=form == "residual")

    def _linear(self) -> nn.Linear:
        layer = nn.Linear(self.width, self.dim, bias=self.start == "random")
        if self.start in ("identity", "pca"):
            nn.init.eye_(layer.weight)
        elif self.start == "orthogonal":
            nn.init.orthogonal_(layer.weight)
        return layer

    def _mlp(self, zero: bool) -> nn.Sequential:
        sizes = [self.width, *[self.hidden] * self.depth]
        modules: list[nn.Module] = []
        for size, after in itertools.pairwise(sizes):
            modules += [nn.Linear(size, after), nn.GELU(), *([nn.Dropout(self.dropout)] if self.dropout else [])]
        last = nn.Linear(sizes[-1], self.dim)
        if zero:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        return nn.Sequential(*modules, last)

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
        count, total = 0, np.zeros(self.width)
        products = np.zeros((self.width, self.width))
        shift: np.ndarray | None = None
        for block in blocks:
            rows = np.asarray(block, np.float64)
            shift = rows.mean(axis=0) if shift is None else shift  # near the mean, so that no digits cancel
            rows = rows - shift
            count, total, products = count + len(rows), total + rows.sum(axis=0), products + rows.T @ rows
        if not count or shift is None:
            raise DataError("there is no vector to learn from", where="data.train", remedy="give rows with vectors")
        mean = total / count
        covariance = products / count - np.outer(mean, mean)
        deviation = np.sqrt(np.clip(np.diag(covariance), 0, None))
        deviation[deviation == 0] = 1.0  # a constant number is 0 behind its mean
        with torch.no_grad():
            self.count.fill_(count)
            if self.scaling != "none":
                self.mean.copy_(torch.from_numpy(mean + shift))
            if self.scaling == "standard":
                self.deviation.copy_(torch.from_numpy(deviation))
                covariance = covariance / np.outer(deviation, deviation)
            if self.start == "pca" and self.linear is not None:
                self.linear.weight.copy_(torch.from_numpy(_axes(covariance, self.dim)))

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
        if prompt:
            raise UserError("a feature model has no prompts", where="prompt", remedy="leave it out")
        values = self._stacked(inputs) if len(inputs) else np.zeros((0, self.width), np.float32)
        if values.shape[1] != self.width:
            raise DataError(
                f"the vectors have {values.shape[1]} numbers, the model reads {self.width}", where="inputs",
                remedy="give the vectors that it was trained on, or set model.feature.width",
            )  # fmt: skip
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
        if others:
            remedy = "of the views of the encoder, vectors have noise and element-cutoff"
            raise UserError(f"a feature model has no {', '.join(others)}", where="method", remedy=remedy)
        weight = next(self.parameters())
        x = (inputs.values.to(weight.dtype) - self.mean) / self.deviation
        if noise:
            x = x + noise * torch.from_numpy(_normals(inputs, self.width)).to(x)
        if element_cutoff:
            mask = uniforms(inputs, "element-cutoff", self.width) >= element_cutoff  # type: ignore[arg-type]
            x = x * torch.from_numpy(mask).to(x)
        if self.layers is None:
            return self.linear(x)  # type: ignore[misc, no-any-return]
        if self.form == "mlp":
            return self.layers(x)  # type: ignore[no-any-return]
        return (x if self.linear is None else self.linear(x)) + self.layers(x)  # type: ignore[no-any-return]

    def encode_items(self, items: Any, settings: EncodeSettings) -> np.ndarray:
        """See `Model.encode_items`."""
        dim = kept_dim(self, settings.truncate_dim)
        unit = self.normalize if settings.normalize is None else settings.normalize
        size = settings.batch_size or settings.batch_tokens or BLOCK
        vectors = np.empty((len(items), dim), dtype=np.float32)
        was_training = self.training
        self.eval()
        try:
            with reporter(settings.progress, len(items), "vectors") as show, torch.inference_mode():
                for start in range(0, len(items), size):
                    block = items[start : start + size]
                    out = self(self.prepare(block, settings.prompt).to(self.device))[:, :dim].float()
                    out = nn.functional.normalize(out, dim=-1) if unit else out
                    part = out.cpu().numpy()
                    bad = first_not_finite(part)
                    if bad is not None:
                        raise not_finite(start + bad)
                    vectors[start : start + len(part)] = part
                    show(len(part))
        finally:
            self.train(was_training)
        return vectors

    def example_input(self) -> np.ndarray:
        """See `Model.example_input`."""
        return np.ones(self.width, np.float32)

    def spec(self) -> dict[str, Any]:
        """Settings that decide the vectors."""
        return {
            "width": self.width, "dim": self.dim, "form": self.form, "hidden": self.hidden, "depth": self.depth,
            "dropout": self.dropout, "start": self.start, "scaling": self.scaling, "normalize": self.normalize,
            **self._similarity_spec(),
        }  # fmt: skip

    def tokenizer_json(self) -> str:
        """Nothing: there is no tokenizer."""
        return ""


def _axes(covariance: np.ndarray, count: int) -> np.ndarray:
    """The first `count` principal axes (count, W), each with its largest number positive."""
    axes = np.linalg.eigh(covariance)[1].T[::-1][:count]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return axes * signs[:, None]


def _normals(inputs: VectorInputs, width: int) -> np.ndarray:
    """Standard normal numbers, float64 (N, width), that depend on the seeds only (Box and Muller 1958)."""
    radius = np.sqrt(-2.0 * np.log1p(-uniforms(inputs, "vector-noise", width)))  # type: ignore[arg-type]
    return radius * np.cos(2.0 * np.pi * uniforms(inputs, "vector-noise angle", width))  # type: ignore[arg-type]
