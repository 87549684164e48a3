"""The typed configuration of a run: one recipe says everything that decides what comes out.

A recipe is read from YAML by `embedkit.config.recipe_io`, checked here before anything heavy is loaded, and written
beside every checkpoint and model. Unknown keys are refused. No setting comes from an environment variable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from embedkit.config.model import ModelConfig
from embedkit.config.sections import Named, ObjectiveConfig, Settings, StageConfig, as_list, by_name
from embedkit.config.settings import Distinct
from embedkit.registry import services

Beta = Annotated[float, Field(ge=0, lt=1)]
Tracker = Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"]
"""What accelerate hands figures to, by the names of their modules."""


def _at_path(value: Any) -> Any:
    """Let ``train: faq.csv`` stand for ``train: [{path: faq.csv}]``."""
    return {"path": value} if isinstance(value, str) else value


def _format(value: str) -> str:
    """A data format by its name in the registry."""
    name: str = services["check_format"](value)
    return name


class BesideConfig(Settings):
    """A further file whose columns stand beside those of a source: row by row, or by an id.

    Examples
    --------
    >>> BesideConfig(path="queries.npz", on="qid").id
    'id'
    """

    path: str = Field(description="one file of arrays: .npy, .npz, .safetensors, parquet or arrow")
    format: Annotated[str, AfterValidator(_format)] = Field(
        "auto", description="data format of the file; auto: found from its name"
    )
    on: str | None = Field(None, description="column of the source that says which row of the file; by order if unset")
    id: str = Field("id", description="column of the file that `on` is looked up in")
    names: dict[str, str] = Field(default_factory=dict, description="column of the file -> another name for it here")
    optional: bool = Field(False, description="rows whose id is not in the file, or empty, have none of its columns")


class SourceConfig(Settings):
    """One source of rows and how its columns become roles.

    ``path`` is a file of any format of `embedkit.data.sources.registry` (csv, jsonl, parquet, arrow ..., compressed
    too), a webdataset shard (.tar), several as ``a-{000..012}.tar`` or ``a-*.csv``, also behind an address (``hf://``,
    ``s3://``, ``gs://``); a folder of such files or of images, a saved data set folder, or a hub data set id; or
    ``builtin:NAME`` for data that embedkit generates itself. ``columns`` maps the user's column to a role (``anchor``,
    ``positive``, ``positives``, ``negatives``, ``negative_1`` .., ``image``, ``texts``, ``text_1`` .., ``score``,
    ``scores``, ``label``, ``group``, ``sentences``, ``document_id``, ``position``).

    Examples
    --------
    >>> source = SourceConfig(path="faq.csv", columns={"question": "anchor", "answer": "positive"}, limit=500)
    >>> source.format, source.columns["question"]
    ('auto', 'anchor')
    """

    path: str = Field(description="a file, shards, a folder, an address, a data set id of the hub, or builtin:NAME")
    format: Annotated[str, AfterValidator(_format)] = Field(
        "auto", description="data format, or where rows come from, e.g. hub; auto: found from path"
    )
    separator: str | None = Field(
        None, min_length=1, max_length=1, description="csv: between cells; detected unless set"
    )
    header: Annotated[list[str], Distinct] | None = Field(
        None, min_length=1, description="csv, tsv: names of columns of a file without"
    )
    image_folder: str | None = Field(None, description="where image paths start and stay; they may be absolute")
    file: str | None = Field(None, description="one file of a hub data set or folder")
    name: str | None = Field(None, description="configuration of a hub data set")
    split: str | None = Field(
        None, description="split of a folder or hub data set; if unset the only one, or train of several",
    )  # fmt: skip
    revision: str | None = Field(None, description="commit, branch or tag of a hub data set; main if unset")
    columns: dict[str, str] | None = Field(None, description="column -> role; guessed from role names when absent")
    kinds: dict[str, str] = Field(
        default_factory=dict, description="role -> text, vector or sequence; found from cells if unset"
    )
    beside: Annotated[list[Annotated[BesideConfig, BeforeValidator(_at_path)]], BeforeValidator(as_list)] = Field(
        default_factory=list, description="further files of arrays whose columns belong to the same rows"
    )
    where: dict[str, Any] = Field(default_factory=dict, description="column -> value(s) a row must have to be kept")
    limit: int | None = Field(None, gt=0, description="rows read at most")
    weight: float | None = Field(None, gt=0, description="share of this source in a mixture")
    stream: bool = Field(False, description="read while training, hold only a shuffle buffer")
    explode: bool = Field(False, description="a list in role 'texts' becomes one row per neighbouring pair")
    split_sentences: bool = Field(False, description="a text in role 'sentences' is a document: cut into sentences")


class DataConfig(Settings):
    """The training data: its sources, how they are mixed, and the order of the rows.

    Examples
    --------
    >>> data = DataConfig(train=["a.csv", {"path": "b.jsonl", "limit": 100}], sampler="no-duplicates")
    >>> [(source.path, source.limit) for source in data.train]
    [('a.csv', None), ('b.jsonl', 100)]
    """

    train: Annotated[list[Annotated[SourceConfig, BeforeValidator(_at_path)]], BeforeValidator(as_list)] = Field(
        min_length=1, description="one source or a list of them; a text is a path"
    )
    sampler: Literal["shuffled", "no-duplicates", "by-label", "length", "contiguous"] = Field(
        "shuffled", description="which rows share a batch: any; none with a text, image or group twice; per_label "
        "rows of each label; rows of similar length; neighbours in a document",
    )  # fmt: skip
    shuffle: Literal["rows", "blocks"] = Field(
        "rows", description="order of an epoch: any row behind any other; or, for files larger than memory, blocks of "
        "512 neighbours in random order, with the rows of 128 blocks at a time shuffled among each other",
    )  # fmt: skip
    per_label: int = Field(2, gt=1, description="by-label: rows of one label in a batch")
    binding: int = Field(0, ge=0, description="rows of each label, always the same, that stand in every batch")
    mixing: Literal["concatenate", "weighted", "temperature"] = Field(
        "concatenate", description="share of each source: by its rows; by its weight; by its rows to the power 1 / "
        "mixing_temperature",
    )  # fmt: skip
    mixing_temperature: float = Field(
        1.0, gt=0, description="of mixing: 1 keeps the sizes of sources, a larger number evens them out"
    )
    batches_from: Literal["mixed", "one-source"] = Field(
        "mixed", description="whether a batch has rows of all sources or of one only"
    )
    shuffle_buffer: int = Field(10_000, gt=0, description="rows held when streaming")
    drop_last: bool = Field(
        True, description="rows that fill no batch are left out of the epoch; otherwise they make smaller batches"
    )
    on_bad_row: Literal["error", "skip", "quarantine"] = Field(
        "error", description="skip counts bad rows by reason; quarantine lists each of them too"
    )
    max_chars: int = Field(100_000, gt=0, description="longer cells are refused, or cut with cut_long")
    cut_long: bool = Field(False, description="texts of more than max_chars are cut, not refused")
    max_pixels: int = Field(89_000_000, gt=0, description="larger images are bad rows")
    workers: int | None = Field(
        None, gt=0,
        description="threads that decode images, processes that cut views; one a core, at most 8, if None",
    )  # fmt: skip
    lanes: int = Field(8, gt=0, description="shards: streams that a batch is put together from; part of the order")

    @model_validator(mode="after")
    def _weights(self) -> DataConfig:
        if self.mixing == "weighted" and any(source.weight is None for source in self.train):
            raise ValueError("data.mixing 'weighted' needs a weight in every entry of data.train")
        return self


class GroupConfig(Settings):
    """Settings for the parameters whose names match `pattern` (shell style, the first match wins).

    Examples
    --------
    >>> TrainConfig(epochs=1, groups=[GroupConfig(pattern="model.head*", lr=1e-4)]).groups[0].lr
    0.0001
    """

    pattern: str = Field(description="names of parameters, e.g. model.head* or *.layer.0.*")
    lr: float | None = Field(None, gt=0, description="peak learning rate; train.lr if unset")
    weight_decay: float | None = Field(
        None, ge=0, description="for all of them; if unset train.weight_decay, which leaves out vectors and scalars"
    )
    frozen: bool = Field(False, description="not trained")
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="factor on the learning rate from layer to layer down"
    )


class TrainConfig(Settings):
    """Settings of the optimisation: batch size, steps, learning rate, precision, gradient cache, checkpoints.

    Examples
    --------
    >>> train = TrainConfig(epochs=1, batch_size=256, lr=1e-5, warmup=0.1)
    >>> train.schedule, train.max_grad_norm
    ('linear', 1.0)
    """

    output: str = Field("runs/{name}", description="folder of the run; {name} stands for the name of the recipe")
    epochs: float | None = Field(
        None, gt=0, description="passes over the data, also parts of one; the run ends at epochs or max_steps, "
        "whichever comes first",
    )  # fmt: skip
    max_steps: int | None = Field(None, gt=0, description="optimiser steps at most; data that is streamed needs it")
    batch_size: int = Field(
        64, gt=0, description="rows per optimiser step, over all processes; fitted to few rows unless you set it"
    )
    lr: float = Field(2e-5, gt=0, description="learning rate of AdamW at its peak, after the warmup")
    weight_decay: float = Field(
        0.0, ge=0, description="decoupled from the gradient (AdamW); none on vectors and scalars: biases, norms, "
        "temperatures",
    )  # fmt: skip
    betas: tuple[Beta, Beta] = Field(
        (0.9, 0.999), strict=False, description="decay rates of Adam's means of the gradients and of their squares"
    )
    eps: float = Field(1e-8, gt=0, description="what Adam adds to the root of the mean square")
    moments: Literal["fp32", "bf16", "int8"] = Field(
        "fp32", description="type of Adam's means: bf16 takes half of their memory, int8 (blocks of 256) a quarter"
    )
    bias_correction: bool = Field(True, description="of Adam's means; first steps are larger without")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="learning rate after the warmup: to 0 along a line, along half a cosine, or as it is"
    )
    warmup: float = Field(0.0, ge=0, description="steps when >= 1, share of all steps when < 1")
    warmup_start: Literal["above-zero", "zero"] = Field(
        "above-zero", description="rate of step k of w: (k + 1) / (w + 1), or from zero, k / w, as transformers has it"
    )
    max_grad_norm: float | None = Field(1.0, gt=0, description="gradients are clipped to this norm")
    groups: list[GroupConfig] = Field(
        default_factory=list, description="parameters by name with a learning rate or weight decay of their own, or "
        "frozen",
    )  # fmt: skip
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="arithmetic of forward and backward passes; auto: bf16 on a GPU that has it, or else fp32"
    )
    chunk_size: int | dict[str, int] | None = Field(None, description="gradient cache (GradCache): inputs per chunk")
    chunk_tokens: Annotated[int, Field(gt=0)] | Literal["auto"] | None = Field(
        None, description="gradient cache: tokens per chunk; auto: as many as the free memory takes"
    )
    keep_chunks: int = Field(1, ge=0, description="chunks whose activations are kept instead of computed again")
    gradient_checkpointing: bool = Field(
        False, description="compute activations of layers again in the backward pass: less memory, more time"
    )
    compile: bool = Field(False, description="compile the encoder's layers with torch.compile")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of a running mean of the weights")
    evaluate_ema: bool = Field(
        True, description="with ema: the running mean is evaluated and saved as the model, not the weights themselves"
    )
    l2sp: float = Field(0.0, ge=0, description="L2-SP: weight of half the squared distance to the weights at the start")
    wise_ft: float | None = Field(
        None, gt=0, le=1,
        description="WiSE-FT: evaluate and save the mean of first and tuned weights, this share of tuned ones",
    )  # fmt: skip
    holdout: float = Field(
        0.0, ge=0, lt=1,
        description="share of the rows that is not trained on but scored before and after; a shipped recipe's gives "
        "way to an evaluation",
    )  # fmt: skip
    log_every: int = Field(
        10, gt=0, description="steps from one line of the log to the next; the first and last step have one too"
    )
    guards: Literal["warn", "stop", "off"] = Field(
        "warn", description="when vectors collapse, the scale stays at its bound, or the loss at that of equal scores"
    )
    save_every: int | None = Field(
        None, gt=0, description="steps; when not given each evaluation, and where `evaluation.every` says it would be"
    )
    keep_checkpoints: int = Field(2, gt=0, description="newest checkpoints kept, besides the best one")
    trackers: Annotated[list[Tracker], Distinct] = Field(
        default_factory=list, description="experiment trackers that get all figures"
    )
    threads: int | None = Field(
        None, gt=0, description="threads of PyTorch on the CPU in each process; PyTorch's own choice if unset"
    )

    @model_validator(mode="after")
    def _length(self) -> TrainConfig:
        if self.epochs is None and self.max_steps is None:
            raise ValueError("give train.epochs or train.max_steps")
        if self.chunk_size is not None and self.chunk_tokens is not None:
            raise ValueError("give train.chunk_size or train.chunk_tokens, not both")
        return self


class VectorsConfig(Settings):
    """How a text encoder computes the vectors that choose the best checkpoint, where that differs from its later use.

    Some published figures were made so. Settings left at None are the model's own.

    Examples
    --------
    >>> EvaluationConfig(suite="sts", vectors=VectorsConfig(pooling="cls", heads=1)).vectors.pooling
    'cls'
    """

    pooling: str | None = Field(None, description="as model.pooling")
    default_prompt: str | None = Field(None, description="one of model.prompts")
    template_bias: bool | None = Field(None, description="whether the bias of the template is taken off")
    heads: int | None = Field(None, gt=0, description="so many of the train_only layers are applied, from the first on")


class EvaluationConfig(Settings):
    """A suite that is run while training, and the metric that chooses the best checkpoint.

    Examples
    --------
    >>> EvaluationConfig(suite="sts", tasks=["stsb"], every=250, patience=10).load_best
    True
    """

    suite: str = Field(
        "sts", description="a shipped suite, a YAML file, or mteb:TASK,TASK; `embedkit suites` lists them"
    )
    data: str | None = Field(
        None, description="folder of the suite's files, or your own file or folder; from the hub if unset"
    )
    tasks: Annotated[list[str], Distinct] | None = Field(
        None, description="only these tasks of the suite; all that have the split if unset"
    )
    split: str = Field("dev", description="dev, test or train")
    settings: dict[str, Any] = Field(default_factory=dict, description="of the tasks, e.g. folds: 5")
    every: int | None = Field(
        None, gt=0,
        description="steps; when not given the end of each epoch, for a stream a twentieth of the run, at most 1,000",
    )  # fmt: skip
    metric: str | None = Field(None, description="SUITE/TASK, e.g. sts/stsb; the suite's main metric when not given")
    by_epoch: bool = Field(
        False, description="count `every` from the start of each epoch, and evaluate at its end; not for streams"
    )
    at_start: bool = Field(False, description="evaluate the model before the first step, too")
    patience: int | None = Field(None, gt=0, description="evaluations in a row without a new best that end the run")
    load_best: bool = Field(True, description="the saved model is the best checkpoint, not the last")
    vectors: VectorsConfig | None = Field(None, description="by which to choose, where the model is used by others")


class GuideConfig(Settings):
    """A second encoder whose embeddings guide the objective: a frozen teacher, or an EMA (momentum) copy of the model.

    Guides mask false negatives (GISTEmbed), give the targets of distillation, and momentum keys (MoCo). A running mean
    covers the parts of the method that its vectors go through, a projector say, too.

    Examples
    --------
    >>> GuideConfig(ema=0.999).model is None, GuideConfig(model=ModelConfig(name="all-mpnet-base-v2")).ema
    (True, None)
    """

    model: ModelConfig | None = Field(None, description="the frozen teacher")
    models: list[ModelConfig] = Field(
        default_factory=list, description="several frozen teachers: cosines are the weighted means of theirs"
    )
    weights: list[float] | None = Field(None, description="of guide.models, positive; equal when not given")
    ema: float | None = Field(None, ge=0, lt=1, description="decay of the running mean (EMA, momentum), e.g. 0.999")
    ema_end: float | None = Field(
        None, ge=0, le=1, description="decay that a half cosine reaches at the end of the run, 1 in BYOL and DINO"
    )
    parts: Annotated[list[str], Distinct] | None = Field(
        None,
        description="parts that the running mean covers, NAME/PART those of an auxiliary; all when not given",
    )
    dropout: bool = Field(False, description="a frozen guide keeps its dropout; a running mean always does")

    @model_validator(mode="after")
    def _one_kind(self) -> GuideConfig:
        if [self.model is None, self.ema is None, not self.models].count(False) != 1:
            raise ValueError("give one of guide.model, guide.models and guide.ema")
        if self.weights is not None and len(self.weights) != len(self.models):
            raise ValueError(f"guide.weights has {len(self.weights)} entries, guide.models {len(self.models)}")
        if self.weights is not None and min(self.weights) <= 0:
            raise ValueError("guide.weights are positive")
        if self.dropout and self.ema is not None:
            raise ValueError("guide.dropout is a setting of guide.model: a running mean has the model's dropout")
        if self.ema is None and (self.ema_end is not None or self.parts is not None):
            raise ValueError("guide.ema_end and guide.parts are settings of a running mean: give guide.ema")
        if self.ema_end is not None and self.ema is not None and self.ema_end < self.ema:
            raise ValueError("guide.ema_end must not be below guide.ema")
        return self

    def frozen(self) -> list[ModelConfig]:
        """The frozen teachers, `model` or `models`; empty for a running mean."""
        return [self.model] if self.model is not None else self.models


@dataclass(eq=False)
class Origin:
    """Where the settings of a recipe come from; no part of what it says, so all origins are equal.

    Attributes
    ----------
    own : frozenset of str
        Dotted keys that the user set: on the command line, in a call, or in a file that is not shipped.
    notes : tuple of str
        Notes on the recipe when it is used, e.g. that a key has an old name.

    Examples
    --------
    >>> origin = Origin(own=frozenset({"train.lr"}))
    >>> origin.has("train"), origin.has("train.lr"), origin.has("train.epochs")
    (True, True, False)
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
    "method.momentum": "guide.ema",
}
"""Keys of embedkit 0.1 -> their names now. They are read for one version, with a note; an entry of a list is ``*``."""


class Recipe(Settings):
    """One run, from data to scores.

    ``smoke`` holds dotted overrides that shrink the recipe to a run of seconds; `embedkit train R --smoke` applies
    them.

    Examples
    --------
    >>> recipe = Recipe.model_validate({
    ...     "name": "faq", "method": "pairs", "model": {"name": "bert-base-uncased"},
    ...     "data": {"train": "faq.csv"}, "train": {"epochs": 1},
    ... })
    >>> recipe.method.name, recipe.data.train[0].path, recipe.train.batch_size
    ('pairs', 'faq.csv', 64)
    """

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="of the run: letters, digits, '.', '_', '-', at "
        "most 100",
    )  # fmt: skip
    description: str = Field("", description="one line on what it is, for lists and model cards")
    seed: int = Field(
        42, ge=0, lt=2**31, description="of new weights, the order of rows, views and dropout: the same seed gives "
        "the same run",
    )  # fmt: skip
    method: Named
    model: ModelConfig = Field(description="the encoder that is trained")
    data: DataConfig = Field(description="training rows and their order")
    objective: Annotated[ObjectiveConfig, BeforeValidator(by_name)] | None = Field(
        None, description="replaces the method's own objective; without a name settings of that"
    )
    auxiliary: list[Named] = Field(
        default_factory=list, description="methods whose loss is added: name, weight, decay, decay_steps, settings"
    )
    guide: GuideConfig | None = Field(None, description="a second encoder whose vectors the method or objective reads")
    train: TrainConfig = Field(description="optimisation, precision, memory, checkpoints")
    evaluation: EvaluationConfig | None = Field(None, description="what is scored while training; nothing if unset")
    stages: list[dict[str, Any]] = Field(
        default_factory=list, description="runs that follow one another: a name, and the keys that differ, for each"
    )
    stage: StageConfig = Field(default_factory=StageConfig, description="of a stage: what the one before gives it")
    fuse: bool = Field(False, description="the model of a run of stages: those of all stages side by side")
    smoke: dict[str, Any] = Field(
        default_factory=dict, description="dotted key -> value: what `--smoke` changes for a run of seconds"
    )
    _origin: Origin = PrivateAttr(default_factory=Origin)

    @property
    def origin(self) -> Origin:
        """Which settings the user has given, and the notes on them."""
        return self._origin

    def with_origin(self, origin: Origin) -> Recipe:
        """This recipe with another origin."""
        self._origin = origin
        return self

    @model_validator(mode="after")
    def _stages_to_fuse(self) -> Recipe:
        if self.fuse and len(self.stages) < 2:
            raise ValueError("fuse puts the models of stages side by side: give two stages or more")
        return self

    @model_validator(mode="after")
    def _texts_by_other_vectors(self) -> Recipe:
        if self.evaluation is not None and self.evaluation.vectors is not None and self.model.kind != "text":
            raise ValueError(f"evaluation.vectors is for text encoders, not for model.kind {self.model.kind!r}")
        return self
