"""Text encoders: a transformers encoder, a pooler, optional dense layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import ModelError, UserError, nearest
from embedkit.models.augment.dropout import dropout_rate
from embedkit.models.augment.embedding_augmentation import Edit, chain, edits, shuffled
from embedkit.models.augment.template_bias import TemplateBias, bare_templates
from embedkit.models.base import Model
from embedkit.models.execution.packing import (
    NO_POSITIONS,
    Changes,
    is_packable,
    position_offset,
    position_table,
    prepare_encoder,
    run_buckets,
    run_packed,
    run_padded,
)
from embedkit.models.execution.plan import Plan
from embedkit.models.execution.rebuild import first_layers
from embedkit.models.heads.layers import Dense, Layer
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.inputs.tokens import TextTokenizer, check_ids, check_texts, resolve_prompt
from embedkit.models.modules.masked import MaskedHead
from embedkit.models.modules.poolers import TokenStates, pooler_of
from embedkit.models.modules.soft_prompt import SoftPrompt

_LONGER = "use the tokenizer saved with the weights, or model.backbone.resize_token_embeddings(len(model.tokenizer))"
_RUNS = {"packed": run_packed, "buckets": run_buckets, "padded": run_padded}


class TextEncoder(Model):
    """A text encoder over any transformers encoder.

    Parameters
    ----------
    encoder : PreTrainedModel
        Owner of the parameters; its state dict is never changed.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    pooling : str
        A key of `embedkit.models.modules.poolers`, or several joined by ``+``, whose vectors are concatenated.
    dense : sequence of Layer
        Layers on the pooled vector.
    max_length : int, optional
        Tokens at most; what tokenizer and position table allow when None.
    normalize : bool
        Unit vectors from `encode`.
    prompts, default_prompt
        See `Model`.
    packing : str
        "auto" (packed where the architecture allows it, buckets otherwise), "packed", "buckets" or "padded".
    template_bias : mapping, optional
        Fields of a `TemplateBias`.
    soft_prompt : mapping, optional
        Settings of a `SoftPrompt`.
    similarity_fn_name : str
        See `Model`.
    pool_prompt : bool
        Whether the tokens of a prompt are pooled too; INSTRUCTOR (Su et al. 2023) leaves them out.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(vocab_size=471, hidden_size=12, num_hidden_layers=1)
    >>> model = TextEncoder(BertModel(config), tokenizer(), pooling="cls")
    >>> model.encode(["a dog", "two cats"]).shape, model.max_length
    ((2, 12), 64)
    """

    kind = "text"
    trained_layers: tuple[int, ...] = ()
    _pooling: str
    _pooler: Any

    def __init__(
        self,
        encoder: Any,
        tokenizer: Any,
        pooling: str = "mean",
        dense: Sequence[Layer] = (),
        max_length: int | None = None,
        normalize: bool = True,
        prompts: dict[str, str] | None = None,
        default_prompt: str | None = None,
        packing: str = "auto",
        template_bias: Mapping[str, Any] | None = None,
        soft_prompt: Mapping[str, Any] | None = None,
        similarity_fn_name: str = "cosine",
        pool_prompt: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self._pooling = pooling
        self.pooling = pooling
        self.similarity_fn_name = similarity_fn_name
        self.template_bias = None if template_bias is None else TemplateBias(**template_bias)
        self.soft_prompt = None if soft_prompt is None else SoftPrompt(encoder.config, **soft_prompt)
        self.mask_head: MaskedHead | None = None  # of a masked LM; given by methods, saved, never used in `encode`
        self.dense = nn.ModuleList(dense)
        self.normalize = normalize
        self.prompts = dict(prompts or {})
        self.default_prompt = default_prompt
        self.packing = packing
        self.pool_prompt = pool_prompt
        self._tokenize = self._tokenizer_for(max_length)
        prepare_encoder(encoder)

    def _tokenizer_for(self, max_length: int | None) -> TextTokenizer:
        if max_length is None:
            limits = (self._position_limit, _length_of_tokenizer(self.tokenizer))
            max_length = min((limit for limit in limits if limit is not None), default=512)
        return TextTokenizer(self.tokenizer, self._checked_length(max_length))

    @property
    def _position_limit(self) -> int | None:
        prompt = 0 if self.soft_prompt is None else self.soft_prompt.length
        return position_limit(self.encoder, prompt)

    def _checked_length(self, value: int) -> int:
        limit = self._position_limit
        if limit is not None and value > limit:
            raise ModelError(f"max_length is {value}", remedy=f"this encoder takes at most {limit} tokens")
        return value

    def at_length(self, max_length: int | None) -> TextEncoder:
        """The same encoder with another `max_length`, all that it takes when None; weights are shared.

        Raises
        ------
        ModelError
            When the encoder does not take so many tokens.
        """
        other = copy.copy(self)
        other._tokenize = other._tokenizer_for(max_length)
        return other

    def with_layers(self, count: int) -> TextEncoder:
        """The same encoder with its first `count` layers alone, weights shared; saved or exported, it holds no others.

        Raises
        ------
        ModelError
            When it has fewer, or its architecture cannot be cut.
        """
        other = copy.copy(self)
        other._modules = {**self._modules, "encoder": first_layers(self.encoder, count)}
        other.mask_head = other.vector_ranges = None
        return other

    def train_layers(self, embedding_layer: bool = False) -> None:
        """In training mode `forward` gives the vectors of all layers one behind the other, the last layer's last.

        Raises
        ------
        ModelError
            When what is pooled is not one layer, or the encoder cannot be cut to the layers before.
        """
        if pooler_of(self.pooling).layers != (-1,) or self.template_bias is not None or not self.pool_prompt:
            raise ModelError(
                f"pooling {self.pooling!r} does not read the last layer alone", where="model.pooling",
                remedy="use cls or mean, no template bias, and pool the prompt too",
            )  # fmt: skip
        first_layers(self.encoder, 1)  # refuses what cannot be cut
        total = int(self.encoder.config.num_hidden_layers)
        self.trained_layers = (*range(0 if embedding_layer else 1, total), -1)

    def by_other_vectors(
        self, pooling: str | None = None, default_prompt: str | None = None, template_bias: bool | None = None,
        heads: int | None = None,
    ) -> TextEncoder:  # fmt: skip
        """The same encoder, its weights shared, giving other vectors: see `embedkit.config.recipe.VectorsConfig`.

        Raises
        ------
        ModelError
            When it has no such prompt, template bias or train-only layers.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        if pooling is not None:
            other.pooling = pooling
        if default_prompt is not None:
            if default_prompt not in self.prompts:
                raise ModelError(f"no prompt {default_prompt!r}", remedy=nearest(default_prompt, self.prompts))
            other.default_prompt = default_prompt
        if template_bias and self.template_bias is None:
            raise ModelError("no template bias to take off", remedy="leave template_bias out")
        if template_bias is not None and self.template_bias is not None:
            when = {True: "always", False: "training"}[template_bias]
            other.template_bias = replace(self.template_bias, when=when)  # type: ignore[arg-type]
        if heads is not None:
            own = [layer for layer in self.layers if layer.train_only]
            if heads > len(own):
                raise ModelError(f"{len(own)} layers are used in training only", remedy=f"heads is {heads}: lower it")
            rest = [layer for layer in self.layers if not layer.train_only]
            other.dense = nn.ModuleList([*rest, *(layer.always() for layer in own[:heads])])
        return other

    @property  # type: ignore[override]
    def pooling(self) -> str:
        """The pooler's name."""
        return self._pooling

    @pooling.setter
    def pooling(self, name: str) -> None:
        pooler_of(name)  # an unknown one is refused here
        self._pooling = name

    @property
    def backbone(self) -> Any:
        """The transformers encoder."""
        return self.encoder

    @property
    def max_length(self) -> int:
        """Tokens of an input at most, special tokens included."""
        return self._tokenize.max_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        self._tokenize.max_length = self._checked_length(value)

    @property
    def hidden_size(self) -> int:
        """Size of a token vector."""
        config = self.encoder.config
        return int(getattr(config, "hidden_size", None) or config.d_model)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Size of the vectors that `encode` returns."""
        return self._size(training=False)

    def _size(self, training: bool) -> int:
        size = self.hidden_size * (self.pooling.count("+") + 1)
        for layer in self.layers:
            size = layer.size(size) if layer.runs(training) else size
        return size

    @property
    def beyond_modules(self) -> list[str]:
        """What the vectors depend on at inference besides encoder, pooling and plain dense layers, in words."""
        words = []
        if self.template_bias is not None and self.template_bias.when == "always":
            words.append("the bias of its template is taken off the vector")
        if self.soft_prompt is not None:
            words.append("it has a soft prompt in every layer")
        if any(isinstance(layer, Dense) and layer.norm is not None for layer in self.layers if not layer.train_only):
            words.append("a dense layer has a layer norm")
        return words

    @property
    def layers(self) -> list[Layer]:
        """The layers on the pooled vector."""
        return [layer for layer in self.dense if isinstance(layer, Layer)]

    def prepare(self, inputs: Sequence[str], prompt: str | None = None) -> Inputs:
        """`Inputs` of texts, tokenised on the CPU; safe to call from several threads."""
        template = resolve_prompt(prompt, self.prompts, self.default_prompt)
        prepared = self._tokens(check_texts(inputs), template)
        if self.pool_prompt:
            return prepared
        length = self._tokenize.prompt_length(template)
        return prepared.replace(unpooled=np.full(len(prepared), length, dtype=np.int64))

    def _tokens(self, texts: list[str], template: str = "") -> Inputs:
        """Token ids of texts, each with a vector in the embedding table."""
        return check_ids(self._tokenize(texts, template), len(self._words), texts, _LONGER)

    def way(self, packing: str | None = None) -> str:
        """The way that a forward pass runs: "packed", "buckets" or "padded"."""
        packing = packing or self.packing
        if packing == "auto":
            return "packed" if is_packable(self.encoder) else "buckets"
        if packing not in _RUNS:
            raise UserError(f"unknown packing {packing!r}", remedy=nearest(packing, ["auto", *_RUNS]))
        if packing == "packed" and not is_packable(self.encoder):
            raise UserError(f"{self.encoder.config.model_type} cannot run packed", remedy="use packing 'buckets'")
        return packing

    def forward(self, inputs: Inputs, packing: str | None = None, **settings: Any) -> Tensor:
        """Vectors (N, D) in input order, not normalised; train-only layers are applied in training mode only.

        `settings` are those of `token_states`. A model with a template bias takes it off here.
        """
        if self.training and self.trained_layers:
            return self._by_layers(inputs, packing, **settings)
        pooled = self.pooled(inputs, packing, **settings)
        bias = self.template_bias
        if bias is None or (bias.when == "training" and not self.training) or len(inputs) == 0:
            return self.project(pooled)
        bare, own = bare_templates(inputs, bias.shift)
        empty = self.pooled(bare, packing, dropout=settings.get("dropout"))
        if bias.at == "pooled":
            return self.project(pooled - empty.index_select(0, own))
        return self.project(pooled) - self.project(empty).index_select(0, own)

    def _by_layers(
        self, inputs: Inputs, packing: str | None, pooling: str | None = None, **settings: Any
    ) -> Tensor:  # fmt: skip
        """The vectors by each of the trained layers, (N, layers D)."""
        if len(inputs) == 0:
            return torch.zeros(0, self.training_dim * len(self.trained_layers), device=self.device, dtype=self.dtype)
        states = self.token_states(inputs, self.trained_layers, packing, **settings)
        pool, inverse = pooler_of(pooling or self.pooling).pool, torch.from_numpy(states.plan.inverse())
        each = [replace(states, layers={-1: states.layers[layer]}) for layer in self.trained_layers]
        return torch.cat([self.project(pool(one)) for one in each], dim=1).index_select(0, inverse.to(self.device))

    def pooled(self, inputs: Inputs, packing: str | None = None, pooling: str | None = None, **settings: Any) -> Tensor:
        """Pooled vectors (N, H) in input order, before any dense layer.

        `pooling` names another pooler than the model's; `settings` are those of `token_states`.
        """
        if len(inputs) == 0:
            width = self.hidden_size * ((pooling or self.pooling).count("+") + 1)
            return torch.zeros(0, width, device=self.device, dtype=self.dtype)
        pooler = pooler_of(self.pooling if pooling is None else pooling)
        states = self.token_states(inputs, pooler.layers, packing, **settings)
        if not self.pool_prompt and "unpooled" in inputs.data:
            states = states.without_first(inputs.data["unpooled"])
        pooled = pooler.pool(states)  # (N, H), shortest input first
        return pooled.index_select(0, torch.from_numpy(states.plan.inverse()).to(pooled.device))

    def token_states(
        self, inputs: Inputs, layers: tuple[int, ...] = (-1,), packing: str | None = None, *,
        dropout: float | None = None, shuffle: bool = False, edit: Edit | None = None,
        record: dict[int, list[Tensor]] | None = None, **named_edits: Any,
    ) -> TokenStates:  # fmt: skip
        """Token vectors of the layers asked for, in the order of the plan (see `TokenStates`).

        Parameters
        ----------
        inputs : Inputs
            Of one token each at least; its `positions` replace 0, 1, 2, ...
        layers : tuple of int
            0 is the embedding layer, 1 the first transformer layer, -1 the last.
        packing : str, optional
            Instead of the model's own. Where "buckets" would run and something is changed, "padded" runs.
        dropout : float, optional
            Rate of all dropout inside the encoder instead of its own.
        shuffle : bool
            Permute the positions of each text's tokens.
        edit : callable, optional
            Changes the embedding layer's output; see `embedkit.models.augment.embedding_augmentation.Edit`.
        record : dict, optional
            Filled with attention probabilities after dropout: layer number -> one (n, heads, l, l) for each of
            ``plan.groups``. Packed runs only.
        **named_edits : float
            Named edits with their number (``token_cutoff=0.15``), applied in the order given, before `edit`.

        Raises
        ------
        UserError
            Unknown setting; positions or attention that this encoder does not take or give.
        """
        for name in named_edits:
            if name not in edits:
                names = [*edits, "dropout", "shuffle", "edit", "record", "packing"]
                raise UserError(f"unknown setting {name!r} of a forward pass", remedy=nearest(name, names))
        inputs = shuffled(inputs) if shuffle else inputs
        steps = [edits[name](value) for name, value in named_edits.items()] + ([edit] if edit is not None else [])
        plan = Plan.of(inputs.costs)
        prefix = None if self.soft_prompt is None else self.soft_prompt(len(inputs))
        changes = Changes(chain(steps), prefix, record)
        way = self._way_with(changes, inputs, packing)
        marks = None if inputs.marks is None else torch.from_numpy(inputs.marks[plan.order]).to(inputs.device)
        with dropout_rate(self.encoder, dropout if self.training else None):
            hidden = _RUNS[way](self.encoder, inputs, plan, layers, changes)
        return TokenStates(hidden, plan, marks)

    def _way_with(self, changes: Changes, inputs: Inputs, packing: str | None) -> str:
        """The way that a forward pass with changes runs."""
        way = self.way(packing)
        kind = self.encoder.config.model_type
        if inputs.positions is not None and kind in NO_POSITIONS:
            raise UserError(f"{kind} has no position ids to change", remedy="choose another view or another encoder")
        if changes.record is not None and way != "packed":
            raise UserError(f"attention is recorded in packed runs, not in {way} ones", remedy="use packing 'packed'")
        is_changed = changes.any or inputs.positions is not None
        return "padded" if way == "buckets" and is_changed else way

    @property
    def training_dim(self) -> int:
        """Size of the vectors in training mode."""
        return self._size(training=True)

    def gradient_checkpointing_enable(self) -> None:
        """See `Model`."""
        self.encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def compile_layers(self) -> None:
        """See `Model`."""
        layers = [layer for stack in self.encoder.modules() if isinstance(stack, nn.ModuleList) for layer in stack]
        for name, part in [(name, part) for layer in layers for name, part in layer.named_children()]:
            if "attn" not in name.lower() and "attention" not in name.lower() and list(part.parameters()):
                part.compile(dynamic=True)

    def project(self, pooled: Tensor) -> Tensor:
        """Vectors (N, D) of pooled ones (N, H), by the dense layers."""
        for layer in self.layers:
            if layer.runs(self.training):
                pooled = layer(pooled)
        return pooled

    def add_tokens(self, names: Sequence[str], ids: Sequence[int]) -> list[int]:
        """Ids of new words of the vocabulary, which start with the vectors of the words `ids`.

        Raises
        ------
        ModelError
            When a name is known already.
        """
        vocabulary = self.tokenizer.get_vocab()
        for name in names:
            if name in vocabulary:
                raise ModelError(f"the vocabulary has {name!r} already", remedy="start from a model without it")
        self.tokenizer.add_special_tokens({"additional_special_tokens": list(names)})
        new = [int(self.tokenizer.convert_tokens_to_ids(name)) for name in names]
        self.encoder.resize_token_embeddings(max(len(self.tokenizer), len(self._words)), mean_resizing=False)
        with torch.no_grad():
            self._words[new] = self._words[list(ids)].clone()
        self._tokenize = TextTokenizer(self.tokenizer, self.max_length)
        return new

    @property
    def _words(self) -> nn.Parameter:
        return self.encoder.get_input_embeddings().weight

    def spec(self) -> dict[str, Any]:
        """Settings that decide the vectors."""
        return {
            "pooling": self.pooling, "dense": [layer.spec() for layer in self.layers], "max_length": self.max_length,
            "normalize": self.normalize, "prompts": self.prompts, "default_prompt": self.default_prompt,
            **{name: part.spec() for name in ("template_bias", "soft_prompt") if (part := getattr(self, name))},
            **self._similarity_spec(),
            **({} if self.pool_prompt else {"pool_prompt": False}),
        }  # fmt: skip

    def tokenizer_json(self) -> str:
        """The tokenizer as text."""
        return self._tokenize.json()

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name; adapters are merged into their layers, the head of a masked LM is left out."""
        from embedkit.models.modules.adapters import has_adapters, merged_state

        if not has_adapters(self.encoder):
            return {name: x for name, x in self.state_dict().items() if not name.startswith("mask_head.")}
        dense = {f"dense.{name}": tensor for name, tensor in self.dense.state_dict().items()}
        prompt = {} if self.soft_prompt is None else {"soft_prompt.weight": self.soft_prompt.weight}
        return {f"encoder.{name}": tensor for name, tensor in merged_state(self.encoder).items()} | dense | prompt


def position_limit(encoder: Any, prompt: int = 0) -> int | None:
    """Tokens that the position table of a transformers encoder allows, None where it sets no limit.

    `prompt` positions of the table are taken by a soft prompt.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(hidden_size=12, num_hidden_layers=1, max_position_embeddings=64)
    >>> position_limit(BertModel(config)), position_limit(BertModel(config), prompt=16)
    (64, 48)
    """
    table = position_table(encoder)
    if table is not None:
        return int(table.num_embeddings) - position_offset(encoder) - prompt
    limit = getattr(encoder.config, "max_position_embeddings", None)
    return None if not limit or limit <= 0 else int(limit) - prompt


def _length_of_tokenizer(tokenizer: Any) -> int | None:
    """Tokens that a tokenizer was made for, None where it says none (transformers then says 1e30)."""
    limit = getattr(tokenizer, "model_max_length", None)
    return None if limit is None or not 0 < limit < 10**9 else int(limit)
