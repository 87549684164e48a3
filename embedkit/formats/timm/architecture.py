"""timm's architecture of an image tower: its name, its arguments and its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from embedkit.formats.image_part import Affine, ImagePart, folded, refuse
from embedkit.formats.open_clip.text_config import activation
from embedkit.formats.timm import keys
from embedkit.formats.transformers.dual_writer import PLAIN_VIT

if TYPE_CHECKING:
    from torch import Tensor

    from embedkit.models.towers.timm import TimmTower
    from embedkit.models.towers.transformers import TransformersTower

# timm's names of architectures by transformers' model_type; sizes are given as arguments
_NAMES = {
    "vit": "vit_base_patch16_224", "clip_vision_model": "vit_base_patch16_clip_224",
    "siglip_vision_model": "vit_base_patch16_siglip_224", "dinov2": "vit_small_patch14_dinov2",
    "dinov2_with_registers": "vit_small_patch14_reg4_dinov2",
}  # fmt: skip
_EPS = {"clip_vision_model": 1e-5}
_POOLS = {"cls": "token", "mean": "avg", "pooler": "token"}


@dataclass
class Architecture:
    """What `timm.create_model` needs for the same numbers.

    Attributes
    ----------
    name : str
        timm's name of the architecture.
    pool : str
        ``global_pool``.
    state : dict
        Weights under timm's names, without a classifier.
    settings : dict
        Further arguments of the constructor.
    linear : (weight, bias) or None
        What stands behind the pooled vector, for the place of the classifier.
    size : (int, int) or None
        Height and width of the images, where weights depend on them.
    eps : float
        Of the model's layer norms; timm's plain ViT has 1e-6 whatever it is.

    Examples
    --------
    >>> Architecture("resnet18", "avg", {}).module().num_classes
    0
    """

    name: str
    pool: str
    state: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    linear: Affine | None = None
    size: tuple[int, int] | None = None
    eps: float = 1e-6

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor besides the number of classes."""
        sized = {} if self.size is None else {"img_size": list(self.size)}
        return {"global_pool": self.pool, **self.settings, **sized}

    def module(self) -> Any:
        """A random model of timm of this architecture."""
        import timm

        count = 0 if self.linear is None else int(self.linear[0].shape[0])
        return timm.create_model(self.name, num_classes=count, **self.arguments)


def architecture_of(part: ImagePart) -> Architecture:
    """timm's architecture of an image tower and of the linear layers behind it.

    Raises
    ------
    ModelError
        When timm has none with the same numbers; the reason is named.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> architecture = architecture_of(ImagePart(build(load_recipe("simclr", smoke=True).model)))
    >>> architecture.name, architecture.settings["embed_dim"], architecture.linear[0].shape
    ('vit_base_patch16_clip_224', 32, torch.Size([16, 32]))
    """
    from embedkit.models.towers.open_clip import OpenClipTower
    from embedkit.models.towers.timm import TimmTower
    from embedkit.models.towers.transformers import TransformersTower

    tower = part.tower
    if isinstance(tower, TimmTower):
        return _of_timm(tower, part)
    if isinstance(tower, TransformersTower):
        architecture = _of_transformers(tower, part)
    elif isinstance(tower, OpenClipTower):
        architecture = _of_open_clip(tower.config, tower.quick_gelu, part)
    else:
        refuse("timm", f"it has no tower of the family {tower.family}")
    architecture.size = tower.size
    return architecture


def _projection(part: ImagePart, before: list[nn.Module]) -> Affine | None:
    part.linear()  # refuses an mlp
    return folded([*before, *part.model.projection("image").layers])


def _of_timm(tower: TimmTower, part: ImagePart) -> Architecture:
    trunk: Any = tower.encoder.trunk
    head = dict(tower.encoder.head.named_children())
    if set(head) - {"drop", "proj"}:
        refuse("timm", f"open_clip's head behind it ({', '.join(head)}) has no place there")
    classifier = trunk.get_classifier()
    own = [classifier] if isinstance(classifier, nn.Linear) else []
    place = trunk.default_cfg.get("classifier")
    state = {name.removeprefix("trunk."): tensor for name, tensor in part.state().items() if name.startswith("trunk.")}
    state = {name: tensor for name, tensor in state.items() if not own or not name.startswith(f"{place}.")}
    linear = _projection(part, [*own, *([head["proj"]] if "proj" in head else [])])
    pool = tower.config.get("timm_pool") or _pool_of(trunk)
    architecture = Architecture(str(tower.config["timm_model_name"]), pool, state, {}, linear, tower.table_size)
    architecture.settings = _norm_argument(architecture)
    return architecture


def _pool_of(trunk: Any) -> str:
    """The pooling of a trunk that nobody chose."""
    from timm.models import VisionTransformer

    return str(trunk.global_pool) if isinstance(trunk, VisionTransformer) else "avg"


def _norm_argument(architecture: Architecture) -> dict[str, Any]:
    """The argument that puts the last norm where the trunk has it.

    timm moves it behind the pooling when "avg" is given at the start, and leaves it when the pooling is changed later.
    """
    for settings in ({}, {"fc_norm": False}, {"use_fc_norm": False}, None):
        if settings is None:
            refuse("timm", f"{architecture.name} with this pooling has other weights when it is made anew")
        architecture.settings = settings
        try:
            module = architecture.module()
        except TypeError:
            continue
        place = "" if architecture.linear is None else module.default_cfg.get("classifier")
        if {n for n in module.state_dict() if not place or not n.startswith(f"{place}.")} == set(architecture.state):
            break
    return architecture.settings


def _of_open_clip(cfg: dict[str, Any], quick: bool, part: ImagePart) -> Architecture:
    for key, values in PLAIN_VIT.items():
        if cfg.get(key, values[0]) not in values:
            refuse("timm", f"its CLIP ViT has no {key} {cfg[key]!r}")
    if isinstance(cfg.get("layers", 12), list | tuple):
        refuse("timm", "open_clip's ResNet has other layers than its resnet50_clip")
    act = activation(cfg, quick)
    eps = float((cfg.get("norm_kwargs") or {}).get("eps", 1e-5))
    width = int(cfg.get("width", 768))
    state = part.state()
    projection = nn.Linear(width, part.tower.dim, bias=False)
    projection.load_state_dict({"weight": state.pop("proj").T})
    settings = {
        "patch_size": cfg.get("patch_size", 16), "embed_dim": width, "depth": cfg.get("layers", 12),
        "num_heads": width // cfg.get("head_width", 64), "mlp_ratio": cfg.get("mlp_ratio", 4.0),
    }  # fmt: skip
    return _clip_vit(keys.clip_to_timm(state), settings, act, eps, _projection(part, [projection]))


def _clip_vit(
    state: dict[str, Tensor], settings: dict[str, Any], act: str, eps: float, linear: Affine | None
) -> Architecture:
    name = {"quick_gelu": "vit_base_patch16_clip_quickgelu_224"}.get(act, _NAMES["clip_vision_model"])
    if act not in ("quick_gelu", "gelu"):
        settings = {**settings, "act_layer": "gelu_tanh"}
    if eps != _EPS["clip_vision_model"]:
        refuse("timm", f"its CLIP ViT has norms with eps 1e-5, this one {eps:g}")
    return Architecture(name, "token", state, settings, linear)


def _of_transformers(tower: TransformersTower, part: ImagePart) -> Architecture:
    config = tower.encoder.config
    kind = config.model_type
    if kind not in _NAMES:
        refuse("timm", f"embedkit knows no architecture there for a {kind}")
    if kind in ("vit", "dinov2", "dinov2_with_registers") and tower.pooling == "pooler":
        refuse("timm", f"the pooler of a {kind} has no place there")
    settings = {
        "patch_size": config.patch_size, "embed_dim": config.hidden_size, "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
    }  # fmt: skip
    own = kind.startswith("dinov2")
    settings["mlp_ratio"] = config.mlp_ratio if own else config.intermediate_size / config.hidden_size
    state, linear = keys.vit_to_timm(part.state()), _projection(part, [])
    if kind == "clip_vision_model":
        if tower.pooling != "pooler":
            refuse("timm", "a CLIP ViT reads its class token behind the last norm")
        return _clip_vit(state, settings, config.hidden_act, config.layer_norm_eps, linear)
    if kind.startswith("dinov2") and config.use_swiglu_ffn:
        refuse("timm", "embedkit knows no names there for a SwiGLU")
    if config.hidden_act not in ("gelu", "gelu_pytorch_tanh"):
        refuse("timm", f"embedkit knows no argument there for the activation {config.hidden_act!r}")
    settings["act_layer"] = "gelu" if config.hidden_act == "gelu" else "gelu_tanh"
    if kind == "dinov2_with_registers":
        settings["reg_tokens"] = config.num_register_tokens
        state = keys.registers_apart(state)
    pool = "map" if kind == "siglip_vision_model" and tower.pooling == "pooler" else _POOLS[tower.pooling]
    if pool == "avg":
        settings["fc_norm"] = False
    if pool != "map":
        state = {name: tensor for name, tensor in state.items() if not name.startswith("attn_pool.")}
    return Architecture(_NAMES[kind], pool, state, settings, linear, eps=float(config.layer_norm_eps))
