"""The section ``model`` of a recipe: encoders of text, towers of a dual encoder, heads and adapters."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from embedkit.config.sections import Settings, as_list
from embedkit.config.settings import Distinct

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class HeadConfig(Settings):
    """A trainable layer on top of the pooled vector.

    ``kind: tanh`` is SimCSE's MLP, Linear(d, d) + Tanh (Gao et al. 2021, section 6.3); ``relu`` has that activation,
    ``linear`` none; ``pooler`` is the Linear + Tanh of the loaded folder itself: BERT's pooling layer (Devlin et al.
    2019, section 3.1), in SimCSE's released models the head they were trained with. With ``train_only`` the head is
    used in training and skipped by `encode`.

    Examples
    --------
    >>> ModelConfig(name="bert-base-uncased", head={"kind": "tanh", "train_only": True}).head
    [HeadConfig(kind='tanh', dim=None, train_only=True)]
    """

    kind: Literal["tanh", "relu", "linear", "pooler"] = Field(
        "tanh", description="a linear layer with tanh, with ReLU, alone, or the pooler of the loaded model"
    )
    dim: int | None = Field(None, gt=0, description="output size; the encoder's size when not given")
    train_only: bool = Field(False, description="used in training, left out by encode")

    @model_validator(mode="after")
    def _whole_pooler(self) -> HeadConfig:
        if self.kind == "pooler" and self.dim is not None:
            raise ValueError("a head of kind pooler has the size that it was trained with: leave out dim")
        return self


class LoraConfig(Settings):
    """Low-rank adapters through peft (Hu et al. 2021).

    Examples
    --------
    >>> LoraConfig(rank=4, targets=["query", "value"])
    LoraConfig(rank=4, alpha=16.0, dropout=0.0, targets=['query', 'value'])
    """

    rank: int = Field(8, gt=0, description="rank of the update of a weight matrix")
    alpha: float = Field(16.0, gt=0, description="the update is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout rate of the inputs of the updates")
    targets: Annotated[list[str], Distinct] | Literal["all-linear"] = Field(
        "all-linear", description="linear layers by the ends of their names, e.g. query; or all of them"
    )


class TextTowerConfig(Settings):
    """The text tower of a dual encoder: the keys of `ModelConfig` that make an encoder, and a projection.

    ``name`` is a folder or hub id of any text encoder, ``size`` a named random CLIP text tower, ``config`` a random
    transformers encoder; ``kind: static`` a bag of word pieces. A tower from a loaded dual encoder takes none of these.

    Examples
    --------
    >>> TextTowerConfig(size="clip-text-tiny", tokenizer="clip").has_origin, TextTowerConfig().has_origin
    (True, False)
    """

    kind: Literal["text", "static"] = Field("text", description="a text encoder, or a bag of word pieces")
    name: str | None = Field(None, description="folder or hub id of a text encoder")
    revision: str | None = Field(None, description="commit, branch or tag of a hub id; main if unset")
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")
    allow_pickle: bool = Field(False, description="read weights from a pickle, as tensors only")
    size: str | None = Field(None, description="a random tower by name, e.g. clip-text-tiny")
    config: dict[str, Any] | None = Field(
        None, description="a random encoder: a configuration of transformers with model_type"
    )
    tokenizer: str | None = Field(None, description="as in model.tokenizer; 'clip' is CLIP's own")
    pooling: str | None = Field(None, description="as model.pooling")
    multi_prompt: Annotated[list[str], Distinct] = Field(
        default_factory=list,
        description="two or more prompts with {} each, read at a learned token of its own; their vectors one behind "
        "the other",
    )
    max_length: int | None = Field(
        None, gt=1, description="tokens, special tokens included; the loaded model's if unset"
    )
    keep_positions: int | None = Field(
        None,
        ge=0,
        description="stretch the positions of a trained tower to max_length, all but so many (Long-CLIP: 20)",
    )
    prompts: dict[str, str] = Field(
        default_factory=dict, description="name -> text put before a text; added to those of the loaded model"
    )
    default_prompt: str | None = Field(
        None, description="prompt of texts for which none is asked; the loaded model's if unset"
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="overrides the tower's dropout rates")
    lora: LoraConfig | None = Field(
        None, description="low-rank adapters: the encoder is frozen, its linear layers get trainable updates"
    )
    dim: int | None = Field(None, gt=0, description="static: size of the vectors")
    ngrams: int = Field(1, ge=1, le=4, description="static: word n-grams up to this length")
    buckets: int = Field(200_000, gt=0, description="static: hash buckets for n-grams")
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

    Examples
    --------
    >>> ImageTowerConfig(size="vit-tiny-64").has_origin, ImageTowerConfig(patch_dropout=0.5).has_origin
    (True, False)
    """

    name: str | None = Field(None, description="folder or hub id of a vision model of transformers")
    revision: str | None = Field(None, description="commit, branch or tag of a hub id; main if unset")
    allow_pickle: bool = Field(False, description="read weights from a pickle, as tensors only")
    size: str | None = Field(None, description="a random tower by name, e.g. vit-tiny-64")
    config: dict[str, Any] | None = Field(
        None, description="a random tower: a configuration of transformers, a vision_cfg of open_clip, or "
        "timm_model_name",
    )  # fmt: skip
    quick_gelu: bool = Field(
        False, description="a vision_cfg of open_clip: x sigmoid(1.702 x) in place of GELU, as in OpenAI's weights"
    )
    pooling: Literal["cls", "mean", "pooler"] | None = Field(
        None, description="towers of transformers: class token, mean of patches or the model's pooler; its own if unset"
    )
    patch_dropout: float | None = Field(None, ge=0, lt=1, description="share of patches left out in training (FLIP)")
    freeze_batch_norm: bool = Field(False, description="batch normalisation keeps its running statistics")
    lora: LoraConfig | None = Field(
        None, description="low-rank adapters: the encoder is frozen, its linear layers get trainable updates"
    )
    preprocess: dict[str, Any] = Field(
        default_factory=dict, description="size, resize, mean, std ... of images, in place of the tower's own"
    )
    projection: Literal["none", "linear", "mlp"] | None = Field(None, description="linear where the tower has none")

    @property
    def has_origin(self) -> bool:
        """Whether this says where a tower comes from."""
        return any(value is not None for value in (self.name, self.size, self.config))


class TowersConfig(Settings):
    """Both towers of a dual encoder and the space they share.

    Examples
    --------
    >>> text, image = TextTowerConfig(size="clip-text-tiny"), ImageTowerConfig(size="vit-tiny-64")
    >>> towers = TowersConfig(text=text, image=image, dim=64)
    >>> towers.dim, towers.image.size
    (64, 'vit-tiny-64')
    """

    text: TextTowerConfig = Field(default_factory=TextTowerConfig, description="the text tower")
    image: ImageTowerConfig = Field(default_factory=ImageTowerConfig, description="the image tower")
    dim: int | None = Field(None, gt=0, description="size of the shared space")


class FeatureConfig(Settings):
    """An encoder of vectors; see `embedkit.models.FeatureEncoder`.

    Examples
    --------
    >>> FeatureConfig(form="residual", dim=64).start
    'identity'
    """

    width: int | None = Field(None, gt=0, description="numbers of an input; those of the data if unset")
    dim: int | None = Field(None, gt=0, description="numbers of an output; the width if unset")
    form: Literal["linear", "mlp", "residual"] = Field(
        "linear", description="a linear map, an MLP, or the input plus an MLP that starts at zero"
    )
    hidden: int | None = Field(None, gt=0, description="mlp, residual: size of the hidden layers; the width if unset")
    depth: int = Field(1, gt=0, description="mlp, residual: hidden layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="mlp, residual: behind each hidden layer")
    start: Literal["identity", "orthogonal", "pca", "random"] = Field(
        "identity", description="the linear map at first: the first numbers of the input, a random rotation, the "
        "principal axes of the training rows, or PyTorch's random weights",
    )  # fmt: skip
    scaling: Literal["none", "center", "standard"] = Field("none", description="learnt from the training rows")
    waves: int | None = Field(
        None, gt=0, description="inputs are latitude and longitude in degrees: waves of so many lengths of them"
    )


class SequenceConfig(Settings):
    """An encoder of sequences of vectors; see `embedkit.models.SequenceEncoder`.

    Examples
    --------
    >>> SequenceConfig(form="gru").hidden
    64
    """

    width: int | None = Field(None, gt=0, description="numbers of a step; those of the data if unset")
    dim: int = Field(128, gt=0, description="numbers of an output")
    form: Literal["mean", "attention", "transformer", "gru"] = Field(
        "mean", description="convolutions and the mean of the steps, or a learnt weighting of them; transformer "
        "blocks and the mean; the last state of a GRU",
    )  # fmt: skip
    hidden: int = Field(64, gt=0, description="size of the layers")
    depth: int = Field(3, gt=0, description="layers")
    heads: int = Field(4, gt=0, description="transformer: heads of attention")
    kernel: int = Field(3, gt=0, description="mean, attention: steps that a convolution sees")
    patch: int = Field(1, gt=0, description="steps that become one before the first layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="in the layers")
    scaling: Literal["none", "center", "standard"] = Field("standard", description="learnt from the training rows")


def _without_null(value: Any) -> Any:
    """A mapping without the entries that are null, so that a recipe can leave one of another out."""
    return {key: entry for key, entry in value.items() if entry is not None} if isinstance(value, dict) else value


class ModelConfig(Settings):
    """The encoder, and how it turns a text into one vector.

    ``name`` is an embedkit, sentence-transformers or transformers folder or hub id. ``config`` builds a randomly
    initialised transformers encoder instead (keys of the transformers configuration, with ``model_type``); it needs
    ``tokenizer``. ``kind: static`` is a bag of word pieces and optional word n-grams. Settings left at None are taken
    from the loaded model where it has them.

    Examples
    --------
    >>> ModelConfig(name="bert-base-uncased", pooling="mean", max_length=128).pooling
    'mean'
    >>> ModelConfig()
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig ...
    """

    kind: Literal["text", "static", "feature", "sequence", "dual", "multi"] = Field(
        "text", description="what it encodes: texts, texts as bags of word pieces, vectors, sequences of vectors, "
        "texts and images, or several modalities",
    )  # fmt: skip
    name: str | None = Field(None, description="folder, run or hub id of the model to start from")
    revision: str | None = Field(None, description="commit, branch or tag of a hub id; main if unset")
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")
    allow_pickle: bool = Field(False, description="read weights from a pickle, as tensors only")
    config: dict[str, Any] | None = Field(
        None, description="text: a random encoder, a configuration of transformers with model_type"
    )
    tokenizer: str | None = Field(None, description="tokenizer folder, vocab.txt, hub id, or 'builtin'")
    pooling: str | None = Field(None, description="cls, mean, max, first-last, last-two, last-token, mask, pooler")
    head: Annotated[list[HeadConfig], BeforeValidator(as_list)] = Field(
        default_factory=list, description="one layer, or a list of layers, the first one on the pooled vector"
    )
    max_length: int | None = Field(None, gt=1, description="tokens, special tokens included")
    use_max_length: Annotated[int, Field(gt=1)] | Literal["limit"] | None = Field(
        None,
        description="tokens outside of training steps: in evaluation and in the saved model; 'limit': all it takes",
    )
    normalize: bool | None = Field(None, description="encode returns unit vectors")
    prompts: dict[str, str] = Field(
        default_factory=dict, description="name -> text put before an input; added to those of the loaded model"
    )
    default_prompt: str | None = Field(
        None, description="prompt of inputs for which none is asked; the loaded model's if unset"
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="overrides the encoder's dropout rates")
    lora: LoraConfig | None = Field(
        None, description="low-rank adapters: the encoder is frozen, its linear layers get trainable updates"
    )
    dim: int | None = Field(None, gt=0, description="static: size of the vectors; multi: of the shared space")
    ngrams: int = Field(1, ge=1, le=4, description="static: word n-grams up to this length")
    buckets: int = Field(200_000, gt=0, description="static: hash buckets for n-grams")
    feature: FeatureConfig | None = Field(None, description="feature: the map of vectors to vectors")
    sequence: SequenceConfig | None = Field(None, description="sequence: the encoder of sequences of vectors")
    towers: TowersConfig | None = Field(None, description="dual: text tower, image tower, shared space")
    modalities: Annotated[dict[str, ModelConfig], BeforeValidator(_without_null)] | None = Field(
        None, description="multi: name of a modality -> its tower; null leaves one of an extended recipe out"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> ModelConfig:
        if self.kind == "text" and (self.name is None) == (self.config is None):
            raise ValueError(
                "give either model.name (a folder or hub id) or model.config (a random encoder); model.name=null or "
                "model.config=null leaves out the one of the recipe"
            )
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
        for kind in ("feature", "sequence"):
            if getattr(self, kind) is not None and self.kind != kind:
                raise ValueError(f"model.{kind} needs model.kind: {kind}")
            if getattr(self, kind) is not None and self.name is not None:
                raise ValueError(f"model.name brings its own layers: leave model.{kind} out")
        self._check_towers()
        self._check_modalities()
        return self

    def _check_modalities(self) -> None:
        if self.kind != "multi":
            if self.modalities is not None:
                raise ValueError("model.modalities needs model.kind: multi")
            return
        if self.name is not None and self.modalities is not None:
            raise ValueError("model.name brings its own towers: leave model.modalities out")
        if self.name is None and (self.dim is None or len(self.modalities or {}) < 2):
            raise ValueError("a model of several modalities needs model.dim and two entries of model.modalities")
        for name, tower in (self.modalities or {}).items():
            if not _NAME.fullmatch(name) or name in ("anchor", "positive", "negatives"):
                raise ValueError(f"model.modalities: {name!r} is no name for a modality: use letters, digits, - and _")
            if tower.kind == "multi":
                raise ValueError(f"model.modalities.{name}: a tower is a model of one modality")
            if tower.kind == "dual" and name not in ("image", "image2"):
                raise ValueError(f"model.modalities.{name}: a modality of images is called image, a second one image2")

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
            raise ValueError(
                "model.name brings its own towers: leave name, size, config and dim out of model.towers, "
                "as by model.towers=null"
            )
