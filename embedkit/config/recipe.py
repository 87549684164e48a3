"""The typed configuration of a run: one recipe says everything that decides what comes out.

A recipe is read from YAML by `embedkit.config.recipe_io`, checked here before anything heavy is loaded, and written
beside every checkpoint and model. Unknown keys are refused. No setting comes from an environment variable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    model_validator,
)

from embedkit.registry import services


class Settings(BaseModel):
    """Base of all recipe sections: unknown keys are refused, values are checked on assignment."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False, strict=True)


def _named(value: Any) -> Any:
    """Let ``objective: infonce`` stand for ``objective: {name: infonce}``."""
    return {"name": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    """Let a single entry stand for a list of it, and null for an empty one."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _at_path(value: Any) -> Any:
    """Let ``train: faq.csv`` stand for ``train: [{path: faq.csv}]``."""
    return {"path": value} if isinstance(value, str) else value


def _format(value: str) -> str:
    """A data format by its name in the registry."""
    name: str = services["check_format"](value)
    return name


class Part(BaseModel):
    """Settings that a registered part checks itself: every key but the name."""

    model_config = ConfigDict(extra="allow")

    @property
    def settings(self) -> dict[str, Any]:
        """Every key but the name."""
        return dict(self.model_extra or {})


class Component(Part):
    """A registered part chosen by name; its other keys are settings that the part itself checks."""

    name: str


class ObjectiveConfig(Part):
    """An objective by name, or without one the settings of the method's own."""

    name: str | None = None


Named = Annotated[Component, BeforeValidator(_named)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class HeadConfig(Settings):
    """A trainable layer on top of the pooled vector.

    ``kind: tanh`` is SimCSE's MLP, Linear(d, d) + Tanh (Gao et al. 2021, section 6.3); ``linear`` has no activation;
    ``pooler`` is the Linear + Tanh of the loaded folder itself: BERT's pooling layer (Devlin et al. 2019, section 3.1),
    in SimCSE's released models the head they were trained with. With ``train_only`` the head is used in training and
    skipped by `encode`.
    """

    kind: Literal["tanh", "linear", "pooler"] = "tanh"
    dim: int | None = Field(None, gt=0, description="output size; the encoder's size when not given")
    train_only: bool = False

    @model_validator(mode="after")
    def _whole_pooler(self) -> HeadConfig:
        if self.kind == "pooler" and self.dim is not None:
            raise ValueError("a head of kind pooler has the size that it was trained with: leave out dim")
        return self


class LoraConfig(Settings):
    """Low-rank adapters through peft (Hu et al. 2021)."""

    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[str] | Literal["all-linear"] = "all-linear"


class TextTowerConfig(Settings):
    """The text tower of a dual encoder: the keys of `ModelConfig` that make an encoder, and a projection.

    ``name`` is a folder or hub id of any text encoder, ``size`` a named random CLIP text tower, ``config`` a random
    transformers encoder; ``kind: static`` a bag of word pieces. A tower from a loaded dual encoder takes none of these.
    """

    kind: Literal["text", "static"] = "text"
    name: str | None = None
    revision: str | None = None
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")
    allow_pickle: bool = Field(False, description="read weights from a pickle, as tensors only")
    size: str | None = Field(None, description="a random tower by name, e.g. clip-text-tiny")
    config: dict[str, Any] | None = None
    tokenizer: str | None = Field(None, description="as in model.tokenizer; 'clip' is CLIP's own")
    pooling: str | None = None
    max_length: int | None = Field(None, gt=1)
    prompts: dict[str, str] = Field(default_factory=dict)
    default_prompt: str | None = None
    dropout: float | None = Field(None, ge=0, lt=1)
    lora: LoraConfig | None = None
    dim: int | None = Field(None, gt=0, description="static: size of the vectors")
    ngrams: int = Field(1, ge=1, le=4)
    buckets: int = Field(200_000, gt=0)
    projection: Literal["none", "linear", "mlp"] | None = Field(None, description="linear when not given")

    @property
    def has_origin(self) -> bool:
        """Whether this says where a tower comes from."""
        return any(value is not None for value in (self.name, self.size, self.config)) or self.kind == "static"


class ImageTowerConfig(Settings):
    """The image tower of a dual encoder.

    ``size`` is a named random tower (embedkit's own such as vit-tiny-64, or an architecture of open_clip such as
    ViT-B-32). ``config`` is a random tower: a configuration of transformers (with ``model_type``), or a ``vision_cfg``
    of open_clip (with ``timm_model_name`` any model of timm). ``name`` is a folder or hub id of a vision model.
    ``preprocess`` holds settings of `embedkit.models.inputs.preprocess.Preprocess`.
    """

    name: str | None = None
    revision: str | None = None
    allow_pickle: bool = Field(False, description="read weights from a pickle, as tensors only")
    size: str | None = Field(None, description="a random tower by name, e.g. vit-tiny-64")
    config: dict[str, Any] | None = None
    quick_gelu: bool = False
    pooling: Literal["cls", "mean", "pooler"] | None = None
    patch_dropout: float | None = Field(None, ge=0, lt=1, description="share of patches left out in training (FLIP)")
    freeze_batch_norm: bool = Field(False, description="batch normalisation keeps its running statistics")
    lora: LoraConfig | None = None
    preprocess: dict[str, Any] = Field(default_factory=dict)
    projection: Literal["none", "linear", "mlp"] | None = Field(None, description="linear where the tower has none")

    @property
    def has_origin(self) -> bool:
        """Whether this says where a tower comes from."""
        return any(value is not None for value in (self.name, self.size, self.config))


class TowersConfig(Settings):
    """Both towers of a dual encoder and the space they share."""

    text: TextTowerConfig = Field(default_factory=TextTowerConfig)
    image: ImageTowerConfig = Field(default_factory=ImageTowerConfig)
    dim: int | None = Field(None, gt=0, description="size of the shared space")


class ModelConfig(Settings):
    """Which encoder, and how a text becomes one vector.

    ``name`` is an embedkit, sentence-transformers or transformers folder or hub id. ``config`` builds a randomly
    initialised transformers encoder instead (keys of the transformers configuration, with ``model_type``); it needs
    ``tokenizer``. ``kind: static`` is a bag of word pieces and optional word n-grams. Settings left at None are taken
    from the loaded model where it has them.
    """

    kind: Literal["text", "static", "dual"] = "text"
    name: str | None = None
    revision: str | None = None
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")
    allow_pickle: bool = Field(False, description="read weights from a pickle, as tensors only")
    config: dict[str, Any] | None = None
    tokenizer: str | None = Field(None, description="tokenizer folder, vocab.txt, hub id, or 'builtin'")
    pooling: str | None = Field(None, description="cls, mean, max, first-last, last-two, last-token, mask, pooler")
    head: Annotated[list[HeadConfig], BeforeValidator(_listed)] = Field(
        default_factory=list, description="one layer, or a list of layers, the first one on the pooled vector"
    )
    max_length: int | None = Field(None, gt=1, description="tokens, special tokens included")
    use_max_length: Annotated[int, Field(gt=1)] | Literal["limit"] | None = Field(
        None,
        description="tokens outside of training steps: in evaluation and in the saved model; 'limit': all it takes",
    )
    normalize: bool | None = Field(None, description="encode returns unit vectors")
    prompts: dict[str, str] = Field(default_factory=dict)
    default_prompt: str | None = None
    dropout: float | None = Field(None, ge=0, lt=1, description="overrides the encoder's dropout rates")
    lora: LoraConfig | None = None
    dim: int | None = Field(None, gt=0, description="static: size of the vectors")
    ngrams: int = Field(1, ge=1, le=4, description="static: word n-grams up to this length")
    buckets: int = Field(200_000, gt=0, description="static: hash buckets for n-grams")
    towers: TowersConfig | None = Field(None, description="dual: text tower, image tower, shared space")

    @model_validator(mode="after")
    def _one_origin(self) -> ModelConfig:
        if self.kind == "text" and (self.name is None) == (self.config is None):
            raise ValueError("give either model.name (a folder or hub id) or model.config (a random encoder)")
        if self.config is not None and (self.tokenizer is None or "model_type" not in self.config):
            raise ValueError("model.config needs model.tokenizer and the key model_type")
        if self.kind == "static" and self.name is None and (self.tokenizer is None or self.dim is None):
            raise ValueError("a static model from scratch needs model.tokenizer and model.dim")
        if self.use_max_length is not None and self.kind != "text":
            raise ValueError(f"model.use_max_length is a setting of text encoders, not of kind {self.kind!r}")
        if self.name is None and self.default_prompt is not None and self.default_prompt not in self.prompts:
            raise ValueError(f"model.default_prompt {self.default_prompt!r} is not one of model.prompts")
        if sorted(self.head, key=lambda head: head.train_only) != self.head:
            raise ValueError("model.head: a layer that is kept would lose the train_only one before it: put it first")
        self._check_towers()
        return self

    def _check_towers(self) -> None:
        if self.kind != "dual":
            if self.towers is not None:
                raise ValueError("model.towers needs model.kind: dual")
            return
        towers = self.towers or TowersConfig()
        origins = [towers.text.has_origin, towers.image.has_origin]
        if self.name is None and not (all(origins) and towers.dim is not None):
            raise ValueError("a dual encoder needs model.name, or model.towers with text, image and dim")
        if self.name is not None and (any(origins) or towers.dim is not None):
            raise ValueError("model.name brings its own towers: leave name, size, config and dim out of model.towers")


class SourceConfig(Settings):
    """One source of rows and how its columns become roles.

    ``path`` is a file of any format of `embedkit.data.sources.registry` (csv, jsonl, parquet, arrow ..., compressed
    too), a webdataset shard (.tar), several as ``a-{000..012}.tar`` or ``a-*.csv``, also behind an address (``hf://``,
    ``s3://``, ``gs://``); a folder of such files or of images, a saved data set folder, or a hub data set id; or
    ``builtin:NAME`` for data that embedkit generates itself. ``columns`` maps the user's column to a role (``anchor``,
    ``positive``, ``positives``, ``negatives``, ``negative_1`` .., ``image``, ``texts``, ``text_1`` .., ``score``,
    ``scores``, ``label``, ``group``).
    """

    path: str
    format: Annotated[str, AfterValidator(_format)] = "auto"
    separator: str | None = Field(None, min_length=1, max_length=1, description="csv: between cells, a comma or told")
    header: list[str] | None = Field(None, min_length=1, description="csv, tsv: names of columns of a file without")
    image_folder: str | None = Field(None, description="where image paths start and stay; they may be absolute")
    file: str | None = Field(None, description="one file of a hub data set or folder")
    name: str | None = Field(None, description="configuration of a hub data set")
    split: str | None = None
    revision: str | None = None
    columns: dict[str, str] | None = Field(None, description="column -> role; guessed from role names when absent")
    where: dict[str, Any] = Field(default_factory=dict, description="column -> value(s) a row must have to be kept")
    limit: int | None = Field(None, gt=0, description="rows read at most")
    weight: float | None = Field(None, gt=0, description="share of this source in a mixture")
    stream: bool = Field(False, description="read while training, hold only a shuffle buffer")
    explode: bool = Field(False, description="a list in role 'texts' becomes one row per neighbouring pair")


class DataConfig(Settings):
    """What is trained on, and in which order."""

    train: Annotated[list[Annotated[SourceConfig, BeforeValidator(_at_path)]], BeforeValidator(_listed)] = Field(
        min_length=1, description="one source or a list of them; a text is a path"
    )
    sampler: Literal["shuffled", "no-duplicates", "by-label", "length"] = "shuffled"
    per_label: int = Field(2, gt=1, description="by-label: rows of one label in a batch")
    mixing: Literal["concatenate", "weighted", "temperature"] = "concatenate"
    mixing_temperature: float = Field(1.0, gt=0)
    batches_from: Literal["mixed", "one-source"] = "mixed"
    shuffle_buffer: int = Field(10_000, gt=0, description="rows held when streaming")
    drop_last: bool = True
    on_bad_row: Literal["error", "skip", "quarantine"] = Field(
        "error", description="skip counts bad rows by reason; quarantine lists each of them too"
    )
    max_chars: int = Field(100_000, gt=0, description="longer cells are refused, or cut with cut_long")
    cut_long: bool = False
    max_pixels: int = Field(89_000_000, gt=0, description="larger images are bad rows")
    workers: int | None = Field(None, gt=0, description="threads that decode images; one a core, at most 8, if None")
    lanes: int = Field(8, gt=0, description="shards: streams that a batch is put together from; part of the order")

    @model_validator(mode="after")
    def _weights(self) -> DataConfig:
        if self.mixing == "weighted" and any(source.weight is None for source in self.train):
            raise ValueError("data.mixing 'weighted' needs a weight in every entry of data.train")
        return self


class GroupConfig(Settings):
    """Settings for the parameters whose names match `pattern` (shell style, first match wins)."""

    pattern: str
    lr: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    frozen: bool = False
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="factor on the learning rate from layer to layer down"
    )


class TrainConfig(Settings):
    """The optimisation: how many steps of what size, with which numbers, on which arithmetic."""

    output: str = "runs/{name}"
    epochs: float | None = Field(None, gt=0)
    max_steps: int | None = Field(None, gt=0)
    batch_size: int = Field(
        64, gt=0, description="rows per optimiser step, over all processes; fitted to few rows unless you set it"
    )
    lr: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), strict=False)
    eps: float = Field(1e-8, gt=0)
    bias_correction: bool = Field(True, description="of Adam's means; first steps are larger without")
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = Field(0.0, ge=0, description="steps when >= 1, share of all steps when < 1")
    warmup_start: Literal["above-zero", "zero"] = Field(
        "above-zero", description="rate of step k of w: (k + 1) / (w + 1), or from zero, k / w, as transformers has it"
    )
    max_grad_norm: float | None = Field(1.0, gt=0, description="gradients are clipped to this norm")
    groups: list[GroupConfig] = Field(default_factory=list)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    chunk_size: int | dict[str, int] | None = Field(None, description="gradient cache: inputs per chunk")
    chunk_tokens: int | None = Field(None, gt=0, description="gradient cache: tokens per chunk")
    keep_chunks: int = Field(1, ge=0, description="chunks whose activations are kept instead of computed again")
    gradient_checkpointing: bool = False
    compile: bool = False
    ema: float | None = Field(None, gt=0, lt=1, description="decay of a running mean of the weights")
    evaluate_ema: bool = True
    l2sp: float = Field(0.0, ge=0, description="L2-SP: weight of half the squared distance to the weights at the start")
    wise_ft: float | None = Field(
        None, gt=0, le=1,
        description="WiSE-FT: evaluate and save the mean of first and tuned weights, this share of tuned ones",
    )  # fmt: skip
    holdout: float = Field(
        0.0, ge=0, lt=1,
        description="share of the rows that is not trained on but scored before and after; not with an evaluation",
    )  # fmt: skip
    log_every: int = Field(10, gt=0)
    guards: Literal["warn", "stop", "off"] = Field(
        "warn", description="when vectors collapse, the scale stays at its bound, or the loss at that of equal scores"
    )
    save_every: int | None = Field(
        None, gt=0, description="steps; when not given each evaluation, and where `evaluation.every` says it would be"
    )
    keep_checkpoints: int = Field(2, gt=0)
    trackers: list[Literal["tensorboard", "wandb"]] = Field(default_factory=list)
    threads: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _length(self) -> TrainConfig:
        if self.epochs is None and self.max_steps is None:
            raise ValueError("give train.epochs or train.max_steps")
        if self.chunk_size is not None and self.chunk_tokens is not None:
            raise ValueError("give train.chunk_size or train.chunk_tokens, not both")
        return self


class VectorsConfig(Settings):
    """How a text encoder makes the vectors that choose a checkpoint, where it is used for others.

    Some published figures were made so. Settings left at None are the model's own.
    """

    pooling: str | None = None
    default_prompt: str | None = Field(None, description="one of model.prompts")
    template_bias: bool | None = Field(None, description="whether the bias of the template is taken off")
    heads: int | None = Field(None, gt=0, description="so many of the train_only layers are applied, from the first on")


class EvaluationConfig(Settings):
    """A suite that is run while training, and the metric that chooses the best checkpoint."""

    suite: str = "sts"
    data: str | None = None
    tasks: list[str] | None = None
    split: str = "dev"
    settings: dict[str, Any] = Field(default_factory=dict, description="of the tasks, e.g. folds: 5")
    every: int | None = Field(
        None, gt=0,
        description="steps; when not given the end of each epoch, for a stream a twentieth of the run, at most 1,000",
    )  # fmt: skip
    metric: str | None = Field(None, description="SUITE/TASK, e.g. sts/stsb; the suite's main metric when not given")
    by_epoch: bool = Field(
        False, description="count `every` from the start of each epoch, and evaluate at its end; not for streams"
    )
    at_start: bool = False
    patience: int | None = Field(None, gt=0, description="evaluations in a row without a new best that end the run")
    load_best: bool = Field(True, description="the saved model is the best checkpoint, not the last")
    vectors: VectorsConfig | None = Field(None, description="by which to choose, where the model is used by others")


class GuideConfig(Settings):
    """A second encoder whose embeddings guide the objective: a frozen teacher, or an EMA (momentum) copy of the model.

    Guides mask false negatives (GISTEmbed), give the targets of distillation, and momentum keys (MoCo).
    """

    model: ModelConfig | None = Field(None, description="the frozen teacher")
    ema: float | None = Field(None, ge=0, lt=1, description="decay of the running mean (EMA, momentum), e.g. 0.999")
    dropout: bool = Field(False, description="a frozen guide keeps its dropout; a running mean always does")

    @model_validator(mode="after")
    def _one_kind(self) -> GuideConfig:
        if (self.model is None) == (self.ema is None):
            raise ValueError("give either guide.model or guide.ema")
        if self.dropout and self.model is None:
            raise ValueError("guide.dropout is a setting of guide.model: a running mean has the model's dropout")
        return self


@dataclass(eq=False)
class Origin:
    """Where the settings of a recipe come from; no part of what it says, so all origins are equal.

    Attributes
    ----------
    own : frozenset of str
        Dotted keys that the user set: on the command line, in a call, or in a file that is not shipped.
    notes : tuple of str
        What is to be said of the recipe when it is used, e.g. that a key has an old name.
    """

    own: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def has(self, key: str) -> bool:
        """Whether the user set this key, or one below it."""
        return any(name == key or name.startswith(f"{key}.") for name in self.own)


OLD_KEYS = {
    "train.clip": "train.max_grad_norm",
    "train.pull_to_start": "train.l2sp",
    "train.interpolate": "train.wise_ft",
}
"""Keys of embedkit 0.1 -> their names now. They are read for one version, with a line; an entry of a list is ``*``."""


class Recipe(Settings):
    """One run, from data to scores.

    ``smoke`` holds dotted overrides that shrink the recipe to a run of seconds; `embedkit train R --smoke` applies
    them.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    description: str = ""
    seed: int = Field(42, ge=0, lt=2**31)
    method: Named
    model: ModelConfig
    data: DataConfig
    objective: Annotated[ObjectiveConfig, BeforeValidator(_named)] | None = Field(
        None, description="replaces the method's own objective; without a name settings of that"
    )
    auxiliary: list[Named] = Field(
        default_factory=list, description="methods whose loss is added: name, weight, decay, decay_steps, settings"
    )
    guide: GuideConfig | None = None
    train: TrainConfig
    evaluation: EvaluationConfig | None = None
    smoke: dict[str, Any] = Field(default_factory=dict)
    _origin: Origin = PrivateAttr(default_factory=Origin)

    @property
    def origin(self) -> Origin:
        """Which settings are the user's own, and what is to be said of them."""
        return self._origin

    def with_origin(self, origin: Origin) -> Recipe:
        """This recipe with another origin."""
        self._origin = origin
        return self

    @model_validator(mode="after")
    def _texts_by_other_vectors(self) -> Recipe:
        if self.evaluation is not None and self.evaluation.vectors is not None and self.model.kind != "text":
            raise ValueError(f"evaluation.vectors is for text encoders, not for model.kind {self.model.kind!r}")
        return self
