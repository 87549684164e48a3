"""Image towers of transformers: ViT, CLIP's, SigLIP's, DINOv2's and others with ``pixel_values``."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from embedkit.errors import ModelError, nearest
from embedkit.models.modules.image_towers import ImageTower, grid, image_towers, pair, product, tower_class
from embedkit.models.modules.patches import PatchDropout, drop_patches

POOLINGS = ("cls", "mean", "pooler")
RESAMPLES_ITSELF = frozenset({"dinov2", "dinov2_with_registers", "dinov3_vit"})
"""Architectures whose forward pass takes images of any size."""
SPECIAL = ("convnext", "convnextv2", "siglip2_vision_model")
"""Architectures with a tower of their own."""
_CLIP = ("clip_vision_model", "metaclip_2_vision_model")
_SIGLIP = ("siglip_vision_model", "siglip2_vision_model")
_PREFIX = {**dict.fromkeys(_SIGLIP, 0), "ijepa": 0, "deit": 2}
"""Tokens in front of the patches, where they are not a class token and registers: DeiT has one for distillation."""
_NAMED = {"metaclip_2_vision_model": "MetaClip2VisionModel"}
"""Classes by model_type, which no automatic class knows."""


@image_towers.add("transformers")
class TransformersTower(ImageTower):
    """A vision model of transformers.

    Parameters
    ----------
    encoder : PreTrainedModel
        ViT, CLIP vision, SigLIP vision, DINOv2 (with registers), or another with ``pixel_values``.
    pooling : str, optional
        "cls" (first token), "mean" (patch tokens), or "pooler" (the model's own); "pooler" where the architecture's
        pooler is trained (CLIP, SigLIP), else "cls".
    size : (int, int), optional
        Height and width of the images where they differ from the configuration's: for DINOv2, which resamples its
        position table at every pass.

    Examples
    --------
    >>> import torch
    >>> from transformers import ViTConfig, ViTModel
    >>> config = ViTConfig(image_size=32, hidden_size=12, num_hidden_layers=1)
    >>> TransformersTower(ViTModel(config), pooling="mean")(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 12])
    """

    family = "transformers"
    options = ("pooling",)

    def __init__(self, encoder: Any, pooling: str | None = None, size: Sequence[int] | None = None) -> None:
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        own = config.model_type in (*_CLIP, *_SIGLIP)
        registers = int(getattr(config, "num_register_tokens", 0))
        self.prefix = _PREFIX.get(config.model_type, 1 + registers)
        self._pooling = ""
        self.pooling = pooling or ("pooler" if own else "cls" if self.prefix else "mean")
        self.dim = int(config.hidden_size)
        self.size = self.usual_size(config)
        if size is not None and pair(size) != self.size:
            if not self.takes_any_size:
                raise ModelError(f"a {config.model_type} takes images of {self.size}", where="model.towers.image")
            self.size = pair(size)
        self.patches = product(self.grid())

    @property  # type: ignore[override]
    def pooling(self) -> str:
        """The way from token vectors to one: "cls", "mean" or "pooler"."""
        return self._pooling

    @pooling.setter
    def pooling(self, name: str) -> None:
        if name not in POOLINGS:
            where = "model.towers.image.pooling"
            raise ModelError(f"unknown pooling {name!r}", where=where, remedy=nearest(str(name), POOLINGS))
        if self.prefix == 0 and name == "cls":
            kind = self.encoder.config.model_type
            what = "SigLIP tower" if kind in _SIGLIP else kind
            raise ModelError(f"a {what} has no class token", remedy="set pooling to 'pooler' or 'mean'")
        self._pooling = name

    @classmethod
    def takes(cls, config: dict[str, Any]) -> bool:
        """See `ImageTower`: a configuration with ``model_type``."""
        return config.get("model_type") not in (None, *SPECIAL)

    @classmethod
    def from_config(cls, config: dict[str, Any], dim: int, options: dict[str, Any]) -> TransformersTower:
        """See `ImageTower`."""
        return cls(new_vision_model(config), **options)

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> TransformersTower:
        """See `ImageTower`."""
        return cls(new_vision_model(spec["config"]), spec.get("pooling"), spec.get("size"))

    @staticmethod
    def usual_size(config: Any) -> tuple[int, int]:
        """Height and width of the images of a configuration."""
        return pair(config.image_size)

    @property
    def takes_any_size(self) -> bool:
        """Whether the forward pass takes images of any size."""
        return self.encoder.config.model_type in RESAMPLES_ITSELF

    def grid(self) -> tuple[int, int]:
        """See `ImageTower`."""
        return grid(self.size, self.encoder.config.patch_size)

    def rebuilt(self, size: tuple[int, int]) -> TransformersTower:
        """See `ImageTower`."""
        kind = self.encoder.config.model_type
        if self.takes_any_size:
            return type(self)(self.encoder, self.pooling, size)
        if kind in (*_CLIP, *_SIGLIP) and size[0] != size[1]:
            raise ModelError(
                f"a {kind} takes square images, not {size[0]} x {size[1]}", where="model.towers.image.preprocess.size",
                remedy="give two equal sides",
            )  # fmt: skip
        config = copy.deepcopy(self.encoder.config)
        config.image_size = size[0] if size[0] == size[1] else list(size)
        return TransformersTower(type(self.encoder)(config), self.pooling)

    @contextlib.contextmanager
    def sized(self, size: tuple[int, int]) -> Iterator[None]:
        """See `ImageTower`: the table is in its place, so the model, which can do it for squares alone, does not
        resample it."""
        with super().sized(size):
            embeddings = dict(self.encoder.named_children()).get("embeddings")
            table = getattr(embeddings, "position_embeddings", None)
            if embeddings is None or table is None or size == self.size or self.takes_any_size:
                yield
                return
            embeddings.interpolate_pos_encoding = lambda *arguments: embeddings.position_embeddings
            try:
                yield
            finally:
                del embeddings.interpolate_pos_encoding

    def place_patch_dropout(self, rate: float) -> bool:
        """See `ImageTower`: inside the embeddings, as a module without parameters whose hook changes their result."""
        embeddings = dict(self.encoder.named_children()).get("embeddings")
        if embeddings is None:
            return False
        if "patch_dropout" not in dict(embeddings.named_children()):
            embeddings.register_forward_hook(drop_patches)
        embeddings.patch_dropout = PatchDropout(rate, self.prefix).train(self.encoder.training)
        return True

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> (N, dim)."""
        return self._pooled(self._run(pixels))

    def _run(self, pixels: Tensor) -> Any:
        """The model's output for images of any size; a table of another size is in its place already (`sized`)."""
        other = tuple(pixels.shape[2:]) != self.size and self.encoder.config.model_type not in RESAMPLES_ITSELF
        return self.encoder(pixel_values=pixels, **({"interpolate_pos_encoding": True} if other else {}))

    def _pooled(self, output: Any) -> Tensor:
        if self.pooling == "pooler":
            return output.pooler_output
        hidden = output.last_hidden_state  # (N, prefix + patches, dim)
        return hidden[:, 0] if self.pooling == "cls" else hidden[:, self.prefix :].mean(1)

    @property
    def prefix_tokens(self) -> int:
        """See `ImageTower`."""
        return self.prefix

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `ImageTower`: the last hidden state; CLIP's through the norm that its class token goes through."""
        output = self._run(pixels)
        hidden = output.last_hidden_state
        if self.encoder.config.model_type in _CLIP:
            hidden = self.encoder.post_layernorm(hidden)
        return self._pooled(output), hidden

    def patch_embedding(self) -> nn.Module:
        """See `ImageTower`."""
        inside = dict(dict(self.encoder.named_children()).get("embeddings", nn.Module()).named_children())
        layer = inside.get("patch_embedding", inside.get("patch_embeddings"))
        return layer if layer is not None else super().patch_embedding()

    def gradient_checkpointing_enable(self) -> None:
        """See `ImageTower`."""
        self.encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def spec(self) -> dict[str, Any]:
        """See `ImageTower`."""
        size = {} if self.size == self.usual_size(self.encoder.config) else {"size": list(self.size)}
        return {"family": self.family, "config": plain_config(self.encoder.config), "pooling": self.pooling, **size}


def plain_config(config: Any) -> dict[str, Any]:
    """A transformers configuration as JSON values, without what only says where it came from.

    Examples
    --------
    >>> from transformers import ViTConfig
    >>> config = plain_config(ViTConfig(image_size=32))
    >>> config["model_type"], config["image_size"], "transformers_version" in config
    ('vit', 32, False)
    """
    settings = config.to_diff_dict()
    for key in ("transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path"):
        settings.pop(key, None)
    return {**settings, "model_type": config.model_type}


def new_config(settings: dict[str, Any], where: str, what: str) -> Any:
    """A transformers configuration of its keys, ``model_type`` among them.

    Raises
    ------
    ModelError
        For an unknown type and for values of the wrong type; the message says it is not `what`.

    Examples
    --------
    >>> new_config({"model_type": "vit", "hidden_size": 8}, "model.config", "not a configuration").hidden_size
    8
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    keys = {key: value for key, value in settings.items() if key != "model_type"}
    try:
        return AutoConfig.for_model(settings["model_type"], **keys)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ModelError(f"{what} ({error})", where=where, remedy="see the configuration's documentation") from error


def new_vision_model(settings: dict[str, Any]) -> Any:
    """A randomly initialised vision model of a transformers configuration with ``model_type``.

    Examples
    --------
    >>> config = {"model_type": "vit", "hidden_size": 12, "num_hidden_layers": 1}
    >>> type(new_vision_model(config)).__name__
    'ViTModel'
    """
    import transformers

    where, what = "model.towers.image.config", "no vision model of transformers"
    config = new_config(settings, where, what)
    if not has_images(config):
        raise ModelError(f"{what} ({config.model_type} has no patch_size, nor stages of its own)", where=where)
    try:
        if config.model_type in _NAMED:
            return getattr(transformers, _NAMED[config.model_type])(config)
        return transformers.AutoModel.from_config(config)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{what} ({error})", where=where) from error


def has_images(config: Any) -> bool:
    """Whether a transformers configuration is one of an image tower that embedkit knows.

    Examples
    --------
    >>> from transformers import BertConfig, ConvNextConfig, ViTConfig
    >>> has_images(ViTConfig()), has_images(ConvNextConfig()), has_images(BertConfig())
    (True, True, False)
    """
    settings = config.to_dict()
    return config.model_type in SPECIAL or {"image_size", "patch_size"} <= settings.keys()


def tower_of(encoder: Any, pooling: str | None = None) -> TransformersTower:
    """The tower around a vision model of transformers.

    Examples
    --------
    >>> from transformers import ConvNextConfig, ConvNextModel
    >>> tower_of(ConvNextModel(ConvNextConfig(hidden_sizes=[4, 4, 4, 8], depths=[1, 1, 1, 1]))).dim
    8
    """
    cls = tower_class({"model_type": encoder.config.model_type}, TransformersTower.family)
    assert issubclass(cls, TransformersTower)
    return cls(encoder, pooling)
