"""open_clip's own text tower, for configurations that no text model of transformers has: a class token behind the text
(CoCa, Yu et al. 2022), attention in both directions without a head (CLIPA, MobileCLIP), no projection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedkit.errors import ModelError, need
from embedkit.formats.folder import FolderPlan
from embedkit.formats.tensors import load_exactly, quiet, read_safetensors, write_tensors, write_tokenizer
from embedkit.formats.transformers.tokenizer import read_tokenizer
from embedkit.formats.weights import write_weights
from embedkit.models.base import Model
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.inputs.text_normalization import cleaner
from embedkit.models.inputs.tokens import SLOT, TextTokenizer, check_texts, resolve_prompt

KIND = "open_clip-text"


def read_text(plan: FolderPlan) -> OpenClipText:
    """The text tower of an inspected embedkit folder.

    Raises
    ------
    ModelError
        The weights or the tokenizer are missing or do not fit.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.formats.detect import inspect
    >>> words = tokenizer()
    >>> config = {"context_length": 8, "vocab_size": len(words), "width": 16, "heads": 2, "layers": 1}
    >>> folder = OpenClipText(config, 4, words, cleaning="none").save("tower")
    >>> read_text(inspect(folder)).max_length
    8
    """
    spec = dict(plan.spec)
    text = OpenClipText(spec.pop("config"), spec.pop("dim"), read_tokenizer(plan.weights), **spec)
    load_exactly(text.encoder, read_safetensors(plan.weights / "model.safetensors"), plan.weights)
    return text


class OpenClipText(Model):
    """A text tower of open_clip, its projection included: captions of a fixed number of tokens to vectors.

    Parameters
    ----------
    config : dict
        open_clip's ``text_cfg``.
    dim : int
        Size of the vectors.
    tokenizer : PreTrainedTokenizerBase
        The tokenizer; shorter captions are padded to the configuration's ``context_length``.
    quick_gelu : bool
        x · sigmoid(1.702 x) instead of GELU.
    cleaning : str
        A key of `embedkit.models.inputs.text_normalization.CLEANINGS`.
    filler : int
        Token id of the padding.
    dropped : int, optional
        A token id that is replaced by 0 (CLIPA's separator).
    prompts, default_prompt
        See `Model`.

    Raises
    ------
    MissingExtraError
        open_clip is not installed.
    ModelError
        The configuration is none of open_clip's.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> words = tokenizer()
    >>> config = {"context_length": 8, "vocab_size": len(words), "width": 16, "heads": 2, "layers": 1}
    >>> OpenClipText(config, 4, words, cleaning="none").encode(["a red lamp"]).shape
    (1, 4)
    """

    kind = KIND
    fixed_length = True

    def __init__(
        self, config: dict[str, Any], dim: int, tokenizer: Any, *, quick_gelu: bool = False, cleaning: str = "lower",
        filler: int = 0, dropped: int | None = None, prompts: dict[str, str] | None = None,
        default_prompt: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        need("open_clip", "clip", "a text tower of open_clip")
        from open_clip.model import CLIPTextCfg, _build_text_tower

        self.config, self.quick_gelu, self.cleaning = dict(config), quick_gelu, cleaning
        self.filler, self.dropped = filler, dropped
        try:
            self.encoder = _build_text_tower(dim, CLIPTextCfg(**config), quick_gelu)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise ModelError(f"not a text_cfg of open_clip ({error})", where="text_cfg") from error
        self.dim, self.normalize = dim, False
        self.tokenizer = tokenizer
        self.prompts, self.default_prompt = dict(prompts or {}), default_prompt
        self._tokenize = TextTokenizer(tokenizer, self.max_length)

    @property
    def max_length(self) -> int:
        """Tokens of a caption, special tokens included."""
        return int(self.config.get("context_length", 77))

    def prepare(self, inputs: Sequence[str], prompt: str | None = None) -> Inputs:
        """Token ids of captions, made on the CPU; safe to call from several threads."""
        template = resolve_prompt(prompt, self.prompts, self.default_prompt) or SLOT
        template = template if SLOT in template else template + SLOT
        clean = cleaner(self.cleaning)
        tokens = self._tokenize([clean(template.replace(SLOT, text)) for text in check_texts(inputs)])
        left = getattr(self.tokenizer, "padding_side", "right") == "left"
        tokens = tokens.padded(self.max_length, self.filler, left)
        if self.dropped is None:
            return tokens
        return tokens.replace(ids=torch.where(tokens.ids == self.dropped, 0, tokens.ids))

    def forward(self, inputs: Inputs, **settings: Any) -> Tensor:
        """Vectors (N, D), not normalised."""
        if settings:
            raise ModelError(
                f"a text tower of open_clip's own has no setting {next(iter(settings))!r}", remedy="leave the view out"
            )
        if len(inputs) == 0:
            return torch.zeros(0, self.dim, device=self.device, dtype=self.dtype)
        out = self.encoder(inputs.ids.view(len(inputs), -1))
        return out[0] if isinstance(out, tuple) else out

    def padded_states(self, inputs: Inputs) -> Tensor:
        """Vectors (N, L, H) of the tokens of captions, its class token left out.

        Raises
        ------
        ModelError
            The configuration does not say ``output_tokens``.
        """
        out = self.encoder(inputs.ids.view(len(inputs), -1))
        if not isinstance(out, tuple):
            raise ModelError("the text tower gives no vectors of tokens", where="text_cfg",
                             remedy="set output_tokens: true")  # fmt: skip
        states: Tensor = out[1]
        return states

    @property
    def hidden_size(self) -> int:
        """Size of a token's vector."""
        return int(self.config.get("width", 512))

    @property
    def causal(self) -> bool:
        """Whether a token sees those before it only."""
        return not self.config.get("no_causal_mask", False)

    def gradient_checkpointing_enable(self) -> None:
        """See `Model`."""
        self.encoder.set_grad_checkpointing(True)

    def spec(self) -> dict[str, Any]:
        """See `Model.spec`."""
        return {
            "config": self.config, "dim": self.dim, "quick_gelu": self.quick_gelu, "cleaning": self.cleaning,
            "filler": self.filler, "dropped": self.dropped, "prompts": self.prompts,
            "default_prompt": self.default_prompt,
        }  # fmt: skip

    def tokenizer_json(self) -> str:
        """The tokenizer as text."""
        return self._tokenize.json()


@write_weights.register
def _(model: OpenClipText, folder: Path, extra: dict[str, Tensor] | None = None) -> None:
    write_tensors({**model.encoder.state_dict(), **(extra or {})}, folder)
    with quiet():
        write_tokenizer(model.tokenizer, folder)
