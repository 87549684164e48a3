"""Text encoders: a transformers encoder, a pooler, optional dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from embedkit.errors import ModelError, UserError, nearest
from embedkit.models.base import Model
from embedkit.models.inputs import Inputs
from embedkit.models.packing import Plan, is_packable, prepare_encoder, run_buckets, run_packed, run_padded
from embedkit.models.poolers import TokenStates, poolers
from embedkit.models.tokens import TextTokenizer, check_texts, resolve_prompt

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}

_RUNS = {"packed": run_packed, "buckets": run_buckets, "padded": run_padded}


class Dense(nn.Module):
    """A linear layer and an activation on the pooled vector, (N, I) -> (N, O).

    Parameters
    ----------
    inputs, outputs : int
        Sizes.
    activation : str
        A key of `ACTIVATIONS`.
    bias : bool
        Whether the linear layer has one.
    train_only : bool
        Used in training mode only: a projection that is dropped at use time (SimCSE, Gao et al. 2021, section 6.3).
    """

    def __init__(
        self, inputs: int, outputs: int, activation: str = "tanh", bias: bool = True, train_only: bool = False
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ModelError(f"unknown activation {activation!r}", remedy=nearest(activation, ACTIVATIONS))
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.activation = activation
        self.function = ACTIVATIONS[activation]()
        self.train_only = train_only

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        return self.function(self.linear(x))

    def spec(self) -> dict[str, Any]:
        """The constructor's arguments."""
        linear = self.linear
        return {
            "inputs": linear.in_features, "outputs": linear.out_features, "activation": self.activation,
            "bias": linear.bias is not None, "train_only": self.train_only,
        }  # fmt: skip


class TextEncoder(Model):
    """A text encoder over any transformers encoder.

    Parameters
    ----------
    encoder : PreTrainedModel
        Owner of the parameters; its state dict is never changed.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    pooling : str
        A key of `embedkit.models.poolers`.
    dense : sequence of Dense
        Layers on the pooled vector.
    max_length : int, optional
        Tokens at most; what tokenizer and position table allow when None.
    normalize : bool
        Unit vectors from `encode`.
    prompts, default_prompt
        See `Model`.
    packing : str
        "auto" (packed where the architecture allows it, buckets otherwise), "packed", "buckets" or "padded".
    """

    kind = "text"

    def __init__(
        self,
        encoder: Any,
        tokenizer: Any,
        pooling: str = "mean",
        dense: Sequence[Dense] = (),
        max_length: int | None = None,
        normalize: bool = True,
        prompts: dict[str, str] | None = None,
        default_prompt: str | None = None,
        packing: str = "auto",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.pooling = pooling
        self._pooler = poolers[pooling]
        self.dense = nn.ModuleList(dense)
        self.normalize = normalize
        self.prompts = dict(prompts or {})
        self.default_prompt = default_prompt
        self.packing = packing
        limit = length_limit(encoder, tokenizer)
        if max_length is not None and limit is not None and max_length > limit:
            raise ModelError(f"max_length is {max_length}", remedy=f"this encoder takes at most {limit} tokens")
        self._tokenize = TextTokenizer(tokenizer, max_length or limit or 512)
        prepare_encoder(encoder)

    @property
    def max_length(self) -> int:
        """Tokens of an input at most, special tokens included."""
        return self._tokenize.max_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        self._tokenize.max_length = value

    @property
    def hidden_size(self) -> int:
        """Size of a token vector."""
        config = self.encoder.config
        return int(getattr(config, "hidden_size", None) or config.d_model)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Size of the vectors that `encode` returns."""
        kept = [layer for layer in self.layers if not layer.train_only]
        return kept[-1].linear.out_features if kept else self.hidden_size

    @property
    def layers(self) -> list[Dense]:
        """The dense layers."""
        return [layer for layer in self.dense if isinstance(layer, Dense)]

    def prepare(self, inputs: Sequence[str], prompt: str | None = None) -> Inputs:
        """Tokenise texts on the CPU; safe to call from several threads."""
        return self._tokenize(check_texts(inputs), resolve_prompt(prompt, self.prompts, self.default_prompt))

    def way(self, packing: str | None = None) -> str:
        """How a forward runs: "packed", "buckets" or "padded"."""
        packing = packing or self.packing
        if packing == "auto":
            return "packed" if is_packable(self.encoder) else "buckets"
        if packing not in _RUNS:
            raise UserError(f"unknown packing {packing!r}", remedy=nearest(packing, ["auto", *_RUNS]))
        if packing == "packed" and not is_packable(self.encoder):
            raise UserError(f"{self.encoder.config.model_type} cannot run packed", remedy="use packing 'buckets'")
        return packing

    def forward(self, inputs: Inputs, packing: str | None = None) -> Tensor:
        """Vectors (N, D) in input order, not normalised; train-only layers are applied in training mode only."""
        if len(inputs) == 0:
            return self.project(torch.zeros(0, self.hidden_size, device=self.device, dtype=self.dtype))
        states = self.token_states(inputs, self._pooler.layers, packing)
        pooled = self._pooler.pool(states)  # (N, H), shortest input first
        pooled = pooled.index_select(0, torch.from_numpy(states.plan.inverse()).to(pooled.device))
        return self.project(pooled)

    def token_states(self, inputs: Inputs, layers: tuple[int, ...] = (-1,), packing: str | None = None) -> TokenStates:
        """Token vectors of the layers asked for, in the order of the plan (see `TokenStates`)."""
        plan = Plan.of(inputs.costs)
        marks = None if inputs.marks is None else torch.from_numpy(inputs.marks[plan.order]).to(inputs.device)
        hidden = _RUNS[self.way(packing)](self.encoder, inputs, plan, layers)
        return TokenStates(hidden, plan, marks)

    @property
    def training_dim(self) -> int:
        """Size of the vectors in training mode."""
        return self.layers[-1].linear.out_features if self.layers else self.hidden_size

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
        """The dense layers, (N, H) -> (N, D)."""
        for layer in self.layers:
            if self.training or not layer.train_only:
                pooled = layer(pooled)
        return pooled

    def spec(self) -> dict[str, Any]:
        """Settings that decide the vectors."""
        return {
            "pooling": self.pooling, "dense": [layer.spec() for layer in self.layers], "max_length": self.max_length,
            "normalize": self.normalize, "prompts": self.prompts, "default_prompt": self.default_prompt,
        }  # fmt: skip

    def tokenizer_json(self) -> str:
        """The tokenizer as text."""
        return self._tokenize.json()

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name; adapters are merged into their layers."""
        from embedkit.models.adapters import has_adapters, merged_state

        if not has_adapters(self.encoder):
            return self.state_dict()
        dense = {f"dense.{name}": tensor for name, tensor in self.dense.state_dict().items()}
        return {f"encoder.{name}": tensor for name, tensor in merged_state(self.encoder).items()} | dense

    def write_weights(self, folder: Path, extra: dict[str, Tensor] | None = None) -> None:
        """Write encoder and tokenizer as a transformers folder.

        Adapters are merged into the weights; `extra` are further tensors for the file.
        """
        from embedkit.models.adapters import has_adapters, merged_state
        from embedkit.models.loading import quiet

        state = merged_state(self.encoder) if has_adapters(self.encoder) else None
        if extra:
            state = {**(state or self.encoder.state_dict()), **extra}
        with quiet():
            self.encoder.save_pretrained(folder, state_dict=state)
            self.tokenizer.save_pretrained(folder)


def length_limit(encoder: Any, tokenizer: Any) -> int | None:
    """Tokens that tokenizer and position table allow, None when neither sets a limit."""
    from embedkit.models.packing import position_offset

    limits = [getattr(tokenizer, "model_max_length", None)]
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    if table is not None:
        limits.append(table.num_embeddings - position_offset(encoder))
    elif getattr(encoder.config, "max_position_embeddings", None):
        limits.append(encoder.config.max_position_embeddings)
    known = [limit for limit in limits if limit is not None and 0 < limit < 10**9]
    return min(known) if known else None
