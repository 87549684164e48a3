"""What reads a caption and its image together: an encoder that says whether they match, a decoder that says it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedkit.models.heads.cross_attention import CrossAttention


class FusionEncoder(nn.Module):
    """Does a text match an image? Layers over a class token and the text's tokens that look at the image's.

    As ALBEF's multimodal encoder (Li et al. 2021, section 3.1), with a class token of its own so that any text tower
    may stand below, and with CoCa's layers.

    Parameters
    ----------
    inputs : int
        Size of a token's vector in the text tower.
    width, layers, heads : int
        Of the layers; vectors of the image are as wide.

    Examples
    --------
    >>> encoder = FusionEncoder(inputs=6, width=8, layers=1, heads=2)
    >>> real = torch.tensor([[True, True, False], [True, True, True]])
    >>> encoder(torch.zeros(2, 3, 6), real, torch.zeros(2, 4, 8)).shape
    torch.Size([2, 2])
    """

    def __init__(self, inputs: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(inputs, width)
        self.token = nn.Parameter(0.02 * torch.randn(width))
        self.layers = CrossAttention(width, layers, heads)
        self.outputs = nn.Linear(width, 2)

    def forward(
        self, states: Tensor, real: Tensor, memory: Tensor, record: list[Tensor] | None = None
    ) -> Tensor:  # fmt: skip
        """Logits (n, 2) of "no" and "yes", from tokens (n, L, I), where there are any (n, L), and images (n, M, W).

        `record` is that of `CrossAttention`; the class token stands before the text's.
        """
        x = self.inputs(states)
        x = torch.cat([self.token.expand(len(x), 1, -1).to(x), x], dim=1)
        real = torch.cat([real.new_ones(len(real), 1), real], dim=1)
        logits: Tensor = self.outputs(self.layers(x, memory, real, record)[:, 0])
        return logits


def match_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Sum of the cross-entropies of pairs that match (1) or do not (0), from logits (n, 2), in float32 at least.

    Examples
    --------
    >>> round(match_loss(torch.zeros(2, 2), torch.tensor([1, 0])).item(), 4)  # 2 log 2
    1.3863
    """
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), label, reduction="sum")


def soft_masks(encoder: FusionEncoder, states: Tensor, real: Tensor, memory: Tensor, words: Tensor) -> Tensor:
    """How much a word looks at each part of its image for the match's sake, from 0 to 1, (n, M), without gradient.

    Grad-CAM (Selvaraju et al. 2017) on the attention of the middle layer, the third of six as in ALBEF: probabilities
    times the positive part of the gradient that the logit of "yes" has for them, averaged over heads, brought to 0 .. 1
    for each pair (Park and Han 2023, section 3.2). What is equal everywhere is 0: so is all of one layer, behind which
    words and class token do not meet again.

    Parameters
    ----------
    encoder : FusionEncoder
        In any mode.
    states, real, memory : Tensor
        As in `FusionEncoder.forward`.
    words : LongTensor (n,)
        The place of the word in its text.

    Examples
    --------
    >>> encoder = FusionEncoder(inputs=6, width=8, layers=2, heads=2)
    >>> texts, images = torch.randn(2, 3, 6), torch.randn(2, 4, 8)
    >>> masks = soft_masks(encoder, texts, torch.ones(2, 3, dtype=torch.bool), images, torch.tensor([1, 2]))
    >>> masks.amin(dim=1).tolist(), masks.shape
    ([0.0, 0.0], torch.Size([2, 4]))
    """
    record: list[Tensor] = []
    with torch.enable_grad():
        logits = encoder(states.detach(), real, memory.detach(), record)
        middle = record[(len(record) - 1) // 2]
        (slopes,) = torch.autograd.grad(logits[:, 1].sum(), middle)
    here = torch.arange(len(words), device=words.device)
    maps = (middle.detach() * slopes.clamp(min=0.0))[here, :, words + 1].mean(dim=1)  # behind the class token
    low, high = maps.amin(dim=1, keepdim=True), maps.amax(dim=1, keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


class CaptionDecoder(nn.Module):
    """Says the next token of a caption from those before it and the image (CoCa, Yu et al. 2022, section 3.2).

    It stands on a causal text tower, whose vectors of tokens know no image; layers, names and sizes of weights are
    those of open_clip's `MultimodalTransformer`.

    Parameters
    ----------
    inputs : int
        Size of a token's vector in the text tower; a linear layer stands before the decoder where it is not `width`.
    width, layers, heads : int
        Of the layers; vectors of the image are as wide.
    words : int
        Tokens of the vocabulary.

    Examples
    --------
    >>> decoder = CaptionDecoder(inputs=6, width=8, layers=1, heads=2, words=10)
    >>> ids = torch.tensor([[1, 4, 2], [1, 2, 0]])
    >>> decoder.loss(torch.zeros(2, 3, 6), ids, ids > 0, torch.zeros(2, 4, 8)).shape
    torch.Size([])
    """

    def __init__(self, inputs: int, width: int, layers: int, heads: int, words: int) -> None:
        super().__init__()
        self.inputs = nn.Identity() if inputs == width else nn.Linear(inputs, width)
        self.layers = CrossAttention(width, layers, heads, causal=True)
        self.outputs = nn.Linear(width, words, bias=False)
        nn.init.normal_(self.outputs.weight, std=width**-0.5)

    def forward(self, states: Tensor, memory: Tensor) -> Tensor:
        """Logits (n, L, V) of the token behind each, from the text tower's vectors (n, L, I) and images (n, M, W)."""
        logits: Tensor = self.outputs(self.layers(self.inputs(states), memory))
        return logits

    def loss(self, states: Tensor, ids: Tensor, real: Tensor, memory: Tensor) -> Tensor:
        """Sum of the cross-entropies of all tokens but first ones, of captions (n, L) of which `real` are there."""
        vectors = self.layers(self.inputs(states[:, :-1]), memory)[real[:, 1:]]  # (T, W)
        logits = self.outputs(vectors)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(wide, ids[:, 1:][real[:, 1:]], reduction="sum")
