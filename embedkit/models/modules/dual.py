"""Dual encoders: a text tower and an image tower into one space (Radford et al. 2021, section 2.3)."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import DataError, ModelError, nearest
from embedkit.models.augment.dropout import set_dropout
from embedkit.models.base import Model
from embedkit.models.inputs.images import ImageInputs, is_image, names_image, own_pixels, pixels_of
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.inputs.preprocess import Preprocess
from embedkit.models.inputs.shapes import ShapedImages
from embedkit.models.modules.image_towers import ImageTower, channel_factors
from embedkit.models.modules.patches import PatchTokens

if TYPE_CHECKING:
    from embedkit.models.encode.arguments import EncodeSettings

PROJECTIONS = ("none", "linear", "mlp")
_log = logging.getLogger(__name__)


class Projection(nn.Module):
    """From a tower's vector to the shared space, (N, I) -> (N, D).

    Parameters
    ----------
    kind : str
        "none" (sizes must be equal), "linear", or "mlp": linear to (I + D) // 2, GELU, linear; as in open_clip.
    inputs, outputs : int
        Sizes.
    bias : bool
        Whether the linear layers have one; CLIP's have none.

    Examples
    --------
    >>> x = torch.ones(2, 8)
    >>> Projection("mlp", 8, 4)(x).shape, Projection("none", 8, 8)(x).shape
    (torch.Size([2, 4]), torch.Size([2, 8]))
    """

    def __init__(self, kind: str, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        if kind not in PROJECTIONS:
            raise ModelError(f"unknown projection {kind!r}", remedy=nearest(kind, PROJECTIONS))
        if kind == "none" and inputs != outputs:
            raise ModelError(f"vectors of size {inputs} need a projection to {outputs}", where="model.towers")
        self.kind, self.inputs, self.outputs, self.bias = kind, inputs, outputs, bias
        hidden = (inputs + outputs) // 2
        sizes = {"none": [], "linear": [(inputs, outputs)], "mlp": [(inputs, hidden), (hidden, outputs)]}[kind]
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=bias) for i, o in sizes)
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, D)."""
        for place, layer in enumerate(self.layers):
            x = layer(nn.functional.gelu(x) if place else x)
        return x

    def spec(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"kind": self.kind, "inputs": self.inputs, "outputs": self.outputs, "bias": self.bias}


class DualEncoder(Model):
    """Texts and images to vectors in one space.

    Parameters
    ----------
    text : Model
        Any text encoder; its own normalisation is not applied, its prompts and length limit are kept.
    image : ImageTower
        Any image tower.
    text_projection, image_projection : Projection
        Into the shared space; both have the same output size.
    preprocess : Preprocess
        How an image becomes the tower's pixels.
    scale, bias : float, optional
        Factor and offset of cosine similarities that the model was trained with: the start of a learnable scale in an
        objective, and written back when a run ends (`embedkit.training.optim.scale`). None before any training,
        where the objective has its own start. The vectors do not depend on them.
    normalize : bool
        Unit vectors from `encode`.
    untrained_text : bool
        Images alone were trained, and beside a text tower that has never met them: vectors of texts mean nothing,
        which `encode` says once.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> vit = {"model_type": "vit", "image_size": 32, "hidden_size": 12, "num_hidden_layers": 1}
    >>> text = {"kind": "static", "tokenizer": "builtin", "dim": 8}
    >>> model = build(ModelConfig(kind="dual", towers={"dim": 4, "text": text, "image": {"config": vit}}))
    >>> model.encode(["a dog", np.zeros((40, 60, 3), dtype=np.uint8)]).shape
    (2, 4)
    """

    kind = "dual"
    has_scale = True
    preprocess: Preprocess
    _record: list[PatchTokens] | None = None
    _cover: tuple[Tensor, Tensor] | None = None
    _blocks: int = 0

    def __init__(
        self,
        text: Model,
        image: ImageTower,
        text_projection: Projection,
        image_projection: Projection,
        preprocess: Preprocess,
        scale: float | None = None,
        bias: float | None = None,
        normalize: bool = True,
        similarity_fn_name: str = "cosine",
        untrained_text: bool = False,
    ) -> None:
        super().__init__()
        self.similarity_fn_name = similarity_fn_name
        if text_projection.outputs != image_projection.outputs:
            raise ModelError(
                f"the towers end in {text_projection.outputs} and {image_projection.outputs} coordinates",
                where="model.towers", remedy="give both projections the same size",
            )  # fmt: skip
        if preprocess.size != image.size:
            raise ModelError(
                f"images of {preprocess.size} for a tower of {image.size}", where="model.towers.image",
                remedy="leave preprocess.size out",
            )  # fmt: skip
        self.text: Model = text
        self.image: ImageTower = image
        self.projections = nn.ModuleDict({"text": text_projection, "image": image_projection})
        self.preprocess, self.scale, self.bias, self.normalize = preprocess, scale, bias, normalize
        self.untrained_text, self.are_strangers, self._is_told = untrained_text, False, False
        self.dim = text_projection.outputs
        self.tokenizer = text.tokenizer
        self.prompts, self.default_prompt = text.prompts, text.default_prompt

    @property
    def text_model(self) -> Model:
        """The text tower."""
        return self.text

    @property
    def pooling(self) -> str | None:  # type: ignore[override]
        """The pooling of the text tower."""
        return self.text.pooling

    def set_dropout(self, rate: float) -> None:
        """Set every dropout rate of both towers.

        Raises
        ------
        ModelError
            When neither has any.
        """
        if not set_dropout(self.text, rate) + set_dropout(self.image, rate):
            raise ModelError("the towers have no dropout", remedy="leave dropout out")

    @property
    def max_length(self) -> int:
        """Tokens of a text at most, special tokens included."""
        return self.text.max_length

    def prepare(self, inputs: Sequence[Any], prompt: str | None = None) -> Any:
        """`Inputs` of a list of texts (str), or `ImageInputs` of a list of images; safe to call from several threads.

        An image is a PIL image, the bytes or the `Path` of a file, or pixels as
        `embedkit.models.inputs.images.pixels_of` takes them.

        Raises
        ------
        DataError
            For a list of both kinds, and for an image that cannot be read.
        """
        kinds = {is_image(item) for item in inputs}
        if len(kinds) > 1:
            raise DataError("texts and images in one list", remedy="prepare them apart, or use encode")
        if kinds != {True}:
            return self.text.prepare(inputs, prompt)
        return ImageInputs(pixels_of(inputs, self.preprocess), self.image.patches)

    def prepare_shapes(self, images: Sequence[Any]) -> list[ImageInputs]:
        """`ImageInputs` of images in their order: one of them all, or one of each image where images keep their own
        shape (``preprocess.patch``)."""
        if self.preprocess.patch is None or not images:
            return [self.prepare(images)]
        return [ImageInputs(pixels[None], self.image.patches) for pixels in own_pixels(images, self.preprocess)]

    def forward(self, inputs: Inputs | ImageInputs | ShapedImages, **settings: Any) -> Tensor:
        """Vectors (N, D) of texts or images, in their order, not normalised; settings are those of the text tower."""
        name, vectors = self.tower_vectors(inputs, **settings)
        return self.projection(name)(vectors)

    def tower_vectors(self, inputs: Inputs | ImageInputs | ShapedImages, **settings: Any) -> tuple[str, Tensor]:
        """The tower that reads the inputs, "text" or "image", and its vectors (N, W) before the projection."""
        if self._record is not None and isinstance(inputs, ImageInputs | ShapedImages):
            cover, filler = self._cover or (None, None)
            self._record.append(self._tower_tokens(inputs, cover, filler, self._blocks))
            return "image", self._record[-1].vectors
        if isinstance(inputs, ShapedImages):
            return "image", self.image.shaped(self.pixels(inputs), inputs.shapes, inputs.data.get("seeds"))
        if isinstance(inputs, ImageInputs):
            with self.image.drawing(inputs.data.get("seeds")), self.image.sized(inputs.size):
                return "image", self.image(self.pixels(inputs))
        return "text", self.text(inputs, **settings)

    @contextlib.contextmanager
    def patch_record(
        self, cover: tuple[Tensor, Tensor] | None = None, blocks: int = 0
    ) -> Iterator[list[PatchTokens]]:  # fmt: skip
        """A list to which every pass over images inside adds their patches, which `cover` and mask token may hide, and
        those of so many `blocks` before the last, with the tower's own vectors, before the projection."""
        self._record, self._cover, self._blocks = [], cover, blocks
        try:
            yield self._record
        finally:
            self._record, self._cover, self._blocks = None, None, 0

    def patch_tokens(
        self, inputs: ImageInputs | ShapedImages, cover: Tensor | None = None, filler: Tensor | None = None,
        blocks: int = 0,
    ) -> PatchTokens:  # fmt: skip
        """Vectors of images in the shared space, not normalised, and of their patches (N, P, W) in the tower's own.

        Parameters
        ----------
        inputs : ImageInputs
            What `prepare` makes of images.
        cover, filler : Tensor, optional
            Hidden patches (N, h w) and the mask token (W,), see `ImageTower.patch_tokens`.
        blocks : int
            Blocks before the last whose patches are given too.

        Raises
        ------
        ModelError
            For images that each have a shape of their own: their patches are no tensor.
        """
        tokens = self._tower_tokens(inputs, cover, filler, blocks)
        return replace(tokens, vectors=self.projection("image")(tokens.vectors))

    def _tower_tokens(
        self, inputs: ImageInputs | ShapedImages, cover: Tensor | None, filler: Tensor | None, blocks: int
    ) -> PatchTokens:  # fmt: skip
        if isinstance(inputs, ShapedImages):
            raise ModelError("patches are read of images of one shape, these each have their own",
                             where="model.towers.image.preprocess", remedy="set {patch: null}")  # fmt: skip
        with self.image.drawing(inputs.data.get("seeds")), self.image.sized(inputs.size):
            return self.image.patch_tokens(self.pixels(inputs), cover, filler, blocks)

    def pixels(self, inputs: ImageInputs | ShapedImages) -> Tensor:
        """Normalised pixels (N, 3, H, W), those of patches (P, 3, side, side), in the type of the weights."""
        full = 1.0 if inputs.pixels.is_floating_point() else 255.0
        pixels = inputs.pixels.to(self.dtype)
        scale, shift = channel_factors(self.preprocess.mean, self.preprocess.std, full, pixels)
        return pixels * scale - shift

    def train_images_alone(self) -> None:
        """Freeze what sees no image, and note a text tower that has never met one: its vectors mean nothing.

        Examples
        --------
        >>> from embedkit.config.recipe_io import load_recipe
        >>> from embedkit.factory import build
        >>> model = build(load_recipe("simclr", smoke=True).model)
        >>> model.train_images_alone()
        >>> model.untrained_text, any(p.requires_grad for p in model.text.parameters())
        (True, False)
        """
        self.untrained_text = self.untrained_text or self.are_strangers
        self.text.requires_grad_(False)
        self.projections["text"].requires_grad_(False)

    def projection(self, name: str) -> Projection:
        """The projection behind the tower "text" or "image"."""
        projection = self.projections[name]
        assert isinstance(projection, Projection)
        return projection

    @property
    def mixes_inputs(self) -> bool:
        """Whether in training a vector depends on the other inputs of its chunk."""
        return self.image.mixes_images

    @property
    def log_scale(self) -> float:
        """The natural logarithm of `scale`, as other libraries store it; CLIP's start before any training."""
        return math.log(1 / 0.07 if self.scale is None else self.scale)

    def spec(self) -> dict[str, Any]:
        """Settings that decide the vectors, and the scale."""
        return {
            "text": {"kind": self.text.kind, **self.text.spec()},
            "image": self.image.spec(),
            "projections": {name: self.projection(name).spec() for name in ("text", "image")},
            "preprocess": self.preprocess.to_json(),
            "normalize": self.normalize, "scale": self.scale, "bias": self.bias, **self._similarity_spec(),
            **({"untrained_text": True} if self.untrained_text else {}),
        }  # fmt: skip

    def tokenizer_json(self) -> str:
        """The text tower's tokenizer as text."""
        return self.text.tokenizer_json()

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name; adapters are merged into their layers."""
        from embedkit.models.modules.adapters import has_adapters, merged_state

        image = self.image.encoder
        state = merged_state(image) if has_adapters(image) else image.state_dict()
        tensors = {f"text.{name}": tensor for name, tensor in self.text.tensors().items()}
        tensors |= {f"image.encoder.{name}": tensor for name, tensor in state.items()}
        return tensors | {f"projections.{name}": tensor for name, tensor in self.projections.state_dict().items()}

    def gradient_checkpointing_enable(self) -> None:
        """See `Model`; towers without layers run as they are."""
        self.image.gradient_checkpointing_enable()
        with contextlib.suppress(ModelError):  # a static text tower
            self.text.gradient_checkpointing_enable()

    def compile_layers(self) -> None:
        """See `Model`: the blocks of both towers."""
        self.image.compile_layers()
        with contextlib.suppress(ModelError):  # a static text tower
            self.text.compile_layers()

    def encode_items(self, items: list[Any], settings: EncodeSettings) -> np.ndarray:
        """Vectors of texts, images, or a mixed list, float32 (N, D), in input order; see `Model.encode`.

        A str is a text; images are as in `prepare`. `batch_tokens` counts patches for images.

        Raises
        ------
        DataError
            For a text that is the path of an image file: as a caption it means nothing.
        """
        from embedkit.models.encode.image_encoding import encode_images

        for place, item in enumerate(items):
            if isinstance(item, str) and names_image(item):
                raise DataError(
                    f"the text {item!r} is the path of an image file", where=f"inputs[{place}]",
                    remedy="pass pathlib.Path(path) for the image",
                )  # fmt: skip
        places = [place for place, item in enumerate(items) if is_image(item)]
        if self.untrained_text and len(places) < len(items) and not self._is_told:
            self._is_told = True
            _log.warning(
                "this model was trained on images alone: vectors of texts mean nothing; train it on captions first, "
                "as by recipe clip-finetune"
            )
        if not places:
            return self.encode_texts(items, settings)
        images = encode_images(self, [items[place] for place in places], settings)
        if len(places) == len(items):
            return images
        others = [place for place, item in enumerate(items) if not is_image(item)]
        texts = self.encode_texts([items[place] for place in others], settings)
        vectors = np.empty((len(items), images.shape[1]), dtype=np.float32)
        vectors[places], vectors[others] = images, texts
        return vectors

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.projections.parameters(), next(self.image.parameters())).device
