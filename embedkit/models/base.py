"""What every encoder offers to the trainer, to evaluation and to users."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import ModelError, UserError, nearest
from embedkit.models.augment.dropout import has_dropout, set_dropout
from embedkit.models.card import card_html, card_text
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.similarity import check_similarity, similarity_matrix
from embedkit.registry import services

if TYPE_CHECKING:
    from embedkit.models.encode.arguments import EncodeSettings
    from embedkit.models.encode.quantization import VectorRanges
    from embedkit.models.heads.classifier import TargetHead
    from embedkit.models.inputs.preprocess import Preprocess

Progress = bool | Callable[[int, int], None] | None


class Model(nn.Module, ABC):
    """Base class of encoders.

    What only some encoders can do is declared here too, with the value of those that cannot: nobody probes a model for
    its attributes.

    Attributes
    ----------
    kind : str
        "text", "clip-text", "static", "feature", "sequence", "dual", "concatenation", "chain" or "multi".
    dim : int
        Size of the vectors that `encode` returns.
    max_length : int
        Tokens of an input at most, special tokens included.
    tokenizer : PreTrainedTokenizerBase
        The tokenizer of its texts.
    prompts : dict of str to str
        Prompt texts by name; a text with ``{}`` is a template around the input.
    default_prompt : str or None
        Name of the prompt that is used when none is given.
    normalize : bool
        Whether `encode` returns unit vectors by default.
    pooling : str or None
        How token vectors become one, where the model has token vectors.
    ngrams : int
        Longest word n-gram that has a vector of its own; 1 where there are none.
    cleaning : str
        What is done to a caption before its tokens, a key of `embedkit.models.inputs.text_normalization.CLEANINGS`.
    fixed_length : bool
        Whether every text is padded to `max_length`, and the padding seen, as by SigLIP's text tower.
    preprocess : Preprocess or None
        How an image becomes pixels, where the model takes images.
    scale, bias : float or None
        Factor and offset of cosine similarities that the model was trained with, where it has them.
    has_scale : bool
        Whether a trained scale can be kept in the model.
    vector_ranges : VectorRanges or None
        The range of each coordinate for ``encode(precision="int8")``; saved with the model.
    classifiers : mapping of str to TargetHead
        Heads that were trained with the model and kept, by the name of their target; see `classify`.
    compute : str or None
        "int8" where the linear layers compute in 8 bits (see `at_dtype`); None where `dtype` says it.
    """

    kind: str = ""
    dim: int
    tokenizer: Any
    prompts: dict[str, str]
    default_prompt: str | None
    normalize: bool
    pooling: str | None = None
    ngrams: int = 1
    cleaning: str = "none"
    fixed_length: bool = False
    preprocess: Preprocess | None = None
    scale: float | None = None
    bias: float | None = None
    has_scale: bool = False
    compute: str | None = None
    vector_ranges: VectorRanges | None = None
    classifiers: Mapping[str, TargetHead] = MappingProxyType({})
    _similarity: str = "cosine"

    @property
    def similarity_fn_name(self) -> str:
        """The function of `similarity`: "cosine", "dot", "euclidean" or "manhattan"."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str) -> None:
        self._similarity = check_similarity(name)

    @property
    def max_seq_length(self) -> int:
        """`max_length` under the name that sentence-transformers has for it."""
        return self.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.max_length = value  # type: ignore[misc]  # encoders with a length have a setter

    @property
    def default_prompt_name(self) -> str | None:
        """`default_prompt` under the name that sentence-transformers has for it."""
        return self.default_prompt

    @default_prompt_name.setter
    def default_prompt_name(self, name: str | None) -> None:
        if name is not None and name not in self.prompts:
            raise UserError(f"there is no prompt {name!r}", remedy=nearest(name, self.prompts))
        self.default_prompt = name

    def _similarity_spec(self) -> dict[str, Any]:
        """The similarity function for `spec`; left out where it is the usual one."""
        return {} if self.similarity_fn_name == "cosine" else {"similarity_fn_name": self.similarity_fn_name}

    @property
    def text_model(self) -> Model:
        """The part that reads texts: the model itself, or the text tower of a dual encoder."""
        return self

    @property
    def backbone(self) -> Any | None:
        """The transformers encoder below the pooling; None for a model without one."""
        return None

    @property
    def hidden_size(self) -> int:
        """Size of the vectors below any dense layer or projection."""
        return self.dim

    @property
    def input_width(self) -> int | None:
        """Numbers of an input, for a model that reads vectors; None for others."""
        return None

    @property
    def learns_inputs(self) -> bool:
        """Whether the training rows have to be shown to `learn_inputs` before the first step."""
        return False

    def learn_inputs(self, blocks: Iterable[np.ndarray]) -> None:
        """Learn from the vectors (n, W) of the training rows what stands in front of the first layer.

        Raises
        ------
        ModelError
            The model does not read vectors.
        """
        raise ModelError(f"a {self.kind} model learns nothing from its inputs before training")

    def example_input(self) -> Any:
        """An input that the model can read, to try it."""
        return "a text"

    @property
    def beyond_modules(self) -> list[str]:
        """What the vectors depend on besides encoder, pooling and plain dense layers, in words."""
        return []

    @property
    def mixes_inputs(self) -> bool:
        """Whether in training a vector depends on the other inputs of its chunk (batch normalisation)."""
        return False

    def has_dropout(self) -> bool:
        """Whether two forward passes of one text differ in training mode, as SimCSE needs it."""
        return has_dropout(self)

    def set_dropout(self, rate: float) -> None:
        """Set every dropout rate of the encoder.

        Raises
        ------
        ModelError
            When the encoder has no dropout.
        """
        if self.backbone is None or not set_dropout(self.backbone, rate):
            raise ModelError(f"a {self.kind} model has no dropout in its encoder", remedy="leave model.dropout out")

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating point type of the parameters."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Tokens of an input at most, special tokens included."""

    @abstractmethod
    def prepare(self, inputs: Sequence[str], prompt: str | None = None) -> Inputs:
        """`Inputs` of texts, tokenised on the CPU; safe to call from several threads. `prompt` is a name or a text."""

    @abstractmethod
    def forward(self, *inputs: Any, **settings: Any) -> Tensor:
        """Vectors (N, D) of `Inputs`, in input order, not normalised; settings are the encoder's own."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Everything besides weights and tokenizer that decides the vectors, as plain JSON values."""

    @abstractmethod
    def tokenizer_json(self) -> str:
        """The tokenizer as text, for the hash."""

    def encode(
        self,
        inputs: Any,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        batch_tokens: int | None = None,
        progress: Progress = None,
        *,
        batch_size: int | None = None,
        layers: int | None = None,
        dtype: str | torch.dtype | None = None,
        precision: str = "float32",
        ranges: Any = None,
        **others: Any,
    ) -> Any:
        """Vectors of texts, float32 (N, D), in input order; of one text its vector (D,).

        Parameters
        ----------
        inputs : str, or a list, tuple, generator, series, column or array of str
            The texts; equal ones are computed once. A dual encoder takes images too, see `DualEncoder.encode`.
        prompt : str, optional
            Name or text of a prompt; the default prompt when None, none when ``""``.
        normalize : bool, optional
            Unit vectors; the model's own setting when None.
        truncate_dim : int, optional
            Keep the first coordinates only (Matryoshka, Kusupati et al. 2022), before normalisation.
        batch_tokens : int, optional
            Tokens of a batch at most (a longer single text is a batch of its own).
        progress : bool or callable, optional
            True shows a bar; a callable gets (texts done, texts in all).
        batch_size : int, optional
            Inputs of a batch at most, whatever their tokens.
        layers : int, optional
            The vectors of a text encoder's first layers alone, for models trained so (adaptive layers, 2-D Matryoshka).
        dtype : str or torch.dtype, optional
            What it computes in: fp32, bf16, fp16, int8 (8-bit products, on CPUs that have them), or "auto", the fastest
            on this machine; the vectors are float32. The type of the weights when None.
        precision : str
            What the vectors become at the end: float32; int8 or uint8, a code for each number by the range of its
            coordinate; binary or ubinary, eight signs in a byte; see `embedkit.quantize`.
        ranges : VectorRanges, array (2, D) or path, optional
            Of int8 and uint8; `vector_ranges` of the model when None. They are never those of the call's own vectors.
        **others
            The words of sentence-transformers: ``prompt_name``, ``show_progress_bar``, ``normalize_embeddings``,
            ``convert_to_tensor``, ``convert_to_sparse_tensor``, ``convert_to_numpy``, ``device``.

        Raises
        ------
        DataError
            When an input is not a str; the index is named.
        NonFiniteError
            When a vector has NaN or infinity; the row is named.
        UserError
            For an argument that is unknown or has no effect.

        Examples
        --------
        >>> from embedkit.data.builtin.sentences import tokenizer
        >>> from embedkit.models import StaticEncoder
        >>> model = StaticEncoder(tokenizer(), dim=8, prompts={"query": "query: "})
        >>> model.encode(["one text", "another"], prompt="query").shape
        (2, 8)
        >>> model.encode("one text", truncate_dim=4).shape
        (4,)
        """
        from embedkit.models.encode import arguments

        settings = arguments.EncodeSettings(prompt, normalize, truncate_dim, batch_tokens, progress, batch_size)
        settings = arguments.understood(self, settings, others)
        quantizer = arguments.quantizer(precision, ranges, None if layers else self.vector_ranges)
        items, single = self.items_of(inputs)
        arguments.move(self, others.get("device"))
        model = self if layers is None else self.with_layers(layers)
        model = model if dtype is None else model.at_dtype(dtype)
        vectors = quantizer(model.encode_items(items, settings))
        return arguments.shaped(vectors, single, self.device, others)

    def with_layers(self, count: int) -> Model:
        """The same model with the first `count` layers of its encoder alone.

        Raises
        ------
        ModelError
            When it has no layers to cut.
        """
        raise ModelError(f"a {self.kind} model has no layers to cut", where="layers",
                         remedy="use a transformers text encoder")  # fmt: skip

    def items_of(self, inputs: Any) -> tuple[Any, bool]:
        """The single inputs of `encode`, in order, and whether they were one without a container."""
        from embedkit.models.encode.arguments import items_of

        return items_of(inputs)

    def at_dtype(self, dtype: str | torch.dtype) -> Model:
        """The same model computing in another type, for encoding; see `embedkit.models.execution.dtypes.at_dtype`."""
        from embedkit.models.execution.dtypes import at_dtype

        return at_dtype(self, dtype)

    def encode_items(self, items: list[Any], settings: EncodeSettings) -> np.ndarray:
        """Vectors, float32 (N, D), of a list of single inputs: the work behind `encode`."""
        return self.encode_texts(items, settings)

    def encode_texts(self, texts: Sequence[str], settings: EncodeSettings, first: int = 0) -> np.ndarray:
        """Vectors, float32 (N, D), of texts alone; messages count them from `first`."""
        from embedkit.models.encode.encoding import encode

        return encode(self, texts, settings, first)

    def encode_query(self, inputs: Any, **settings: Any) -> Any:
        """Vectors of queries: `encode` under the prompt "query" where the model has one, else the default prompt."""
        return self.encode(inputs, **self._role_prompt(("query",), settings))

    def encode_document(self, inputs: Any, **settings: Any) -> Any:
        """Vectors of documents: `encode` under the prompt "document", "passage" or "corpus" where the model has one,
        else the default prompt."""
        return self.encode(inputs, **self._role_prompt(("document", "passage", "corpus"), settings))

    def classify(
        self, inputs: Any, target: str | None = None, *, probabilities: bool = False, **settings: Any
    ) -> Any:  # fmt: skip
        """What a kept head says of texts (or images, for a dual encoder): class names, in input order.

        Parameters
        ----------
        inputs
            As `encode` takes them; of a single text the answer is single too.
        target : str, optional
            Name of the target; it may be left out where one head is kept.
        probabilities : bool
            Give float32 (N, C) instead: the probability of each of ``classifiers[target].classes``.
        **settings
            As in `encode`, a prompt for example.

        Returns
        -------
        list of str, list of list of str, or array
            By the kind of the head: one class of each text, several, or the numbers (N, C).

        Raises
        ------
        ModelError
            No such head is kept.

        Examples
        --------
        >>> from embedkit.data.builtin.sentences import tokenizer
        >>> from embedkit.models import StaticEncoder
        >>> from embedkit.models.heads.classifier import TargetHead
        >>> model = StaticEncoder(tokenizer(), dim=8)
        >>> model.classifiers = {"tone": TargetHead(8, 2, "class", ["glad", "sad"])}
        >>> model.classify(["a red lamp"], probabilities=True).shape
        (1, 2)
        """
        name = next(iter(self.classifiers)) if target is None and len(self.classifiers) == 1 else target
        if name is None or name not in self.classifiers:
            what = f"no head for {target!r} is kept" if target else "several heads are kept, name one as target"
            remedy = nearest(str(target), list(self.classifiers))
            raise ModelError(what if self.classifiers else "no head is kept with the model",
                             remedy=remedy if self.classifiers else "train it with keep: true")  # fmt: skip
        vectors = np.asarray(self.encode(inputs, **{**settings, "normalize": False}), np.float32)
        head = self.classifiers[name]
        scores = head.scores(np.atleast_2d(vectors))
        answers = scores if probabilities else head.named(scores)
        return answers[0] if vectors.ndim == 1 else answers

    def _role_prompt(self, names: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
        """The settings with the first prompt of `names` that the model has, unless a prompt is named."""
        name = next((name for name in names if name in self.prompts), None)
        if name is None or settings.get("prompt") is not None or settings.get("prompt_name") is not None:
            return settings
        return {**settings, "prompt": name}

    def similarity(self, a: Any, b: Any) -> np.ndarray:
        """Similarities, float32 (N, M), of vectors (N, D) and (M, D) by the model's own function.

        Texts (and images, for a dual encoder) are encoded first, under the default prompt.

        Raises
        ------
        UserError
            When the vectors have different sizes.
        """
        return similarity_matrix(self.similarity_fn_name, self._vectors_of(a), self._vectors_of(b))

    def _vectors_of(self, inputs: Any) -> Any:
        """`inputs` where they are vectors, else the vectors that `encode` gives for them."""
        if isinstance(inputs, Tensor) or (isinstance(inputs, np.ndarray) and inputs.dtype.kind in "fiub"):
            return inputs
        if isinstance(inputs, list | tuple) and all(
            isinstance(row, int | float | list | tuple | np.ndarray | np.number | Tensor) for row in inputs
        ):
            return inputs
        return self.encode(inputs)

    def save(self, path: str | Path, *, recipe: dict[str, Any] | None = None, overwrite: bool = False) -> Path:
        """The folder that the model was written to; see `embedkit.formats.save`."""
        folder: Path = services["save"](self, path, recipe=recipe, overwrite=overwrite)
        return folder

    def push_to_hub(self, repo_id: str, **settings: Any) -> str:
        """The address on the hub that the model was pushed to; see `embedkit.push`."""
        address: str = services["push"](self, repo_id, **settings)
        return address

    @property
    def training_dim(self) -> int:
        """Size of the vectors that `forward` returns in training mode; train-only layers may change it."""
        return self.dim

    def gradient_checkpointing_enable(self) -> None:
        """Keep one activation a layer in training and compute the others again (Chen et al. 2016).

        Raises
        ------
        ModelError
            When the model has no layers.
        """
        raise ModelError(f"a {self.kind} model has no layers", remedy="leave train.gradient_checkpointing out")

    def compile_layers(self) -> None:
        """Compile what runs on all tokens alike with torch.compile; attention, whose groups change, stays as it is.

        Raises
        ------
        ModelError
            When the model has no layers.
        """
        raise ModelError(f"a {self.kind} model has no layers", remedy="leave train.compile out")

    def hash(self) -> str:
        """A name for exactly this encoder: 16 hexadecimal digits over weights, tokenizer and settings.

        Two models with equal hashes give equal vectors on the same machine; the device and the way of running do not
        enter.
        """
        digest = self._reading()
        digest.update((self.compute or "").encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def reading_hash(self) -> str:
        """A name for tokenizer and settings alone: what does not change in training, 16 hexadecimal digits."""
        return self._reading().hexdigest()[:16]

    def _reading(self) -> hashlib._Hash:
        digest = hashlib.sha256(json.dumps(self.spec(), sort_keys=True).encode())
        digest.update(self.tokenizer_json().encode())
        return digest

    def tensors(self) -> dict[str, Tensor]:
        """The weights as `save` writes them, by name."""
        return self.state_dict()

    def __repr__(self) -> str:
        return card_text(self)

    def _repr_html_(self) -> str:
        """The card as a table, for notebooks."""
        return card_html(self)

    def describe(self) -> dict[str, Any]:
        """What a score file says about the model."""
        return {
            "kind": self.kind,
            **self.spec(),
            "dim": self.dim,
            "dtype": self.compute or str(self.dtype).removeprefix("torch."),
            "hash": self.hash(),
        }
