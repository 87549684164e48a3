"""Learned context of class names: new words of a text tower's vocabulary, put in front of what is encoded. Import this
file inside functions: it needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedkit.errors import DataError, ModelError
from embedkit.models.heads.projector import projector
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.modules.adapters import train_rows
from embedkit.models.modules.text import TextEncoder

NAME = "context"
"""The prompt that holds the learned words."""


def learn_context(model: Any, context: str, length: int | None, where: str = "method.context") -> int:
    """Give a dual encoder learned words in front of every text, freeze all the rest of it, and say their first id.

    The words are entries of the vocabulary, "[context0]" and so on, that the prompt "context" names; it becomes the
    default one. So the model is saved, read, encoded and exported like any other.

    Parameters
    ----------
    model : DualEncoder
    context : str
        Words whose vectors they start from.
    length : int or None
        As many words with random vectors instead (normal, deviation 0.02).
    where : str
        The setting that errors name.

    Raises
    ------
    ModelError
        The text tower has no vocabulary that can grow; there are no words; or they leave no room for a text.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("clip", smoke=True).model, 0)
    >>> before = len(model.text.tokenizer)
    >>> learn_context(model, "a photo of a", None) == before, model.prompts
    (True, {'context': '[context0][context1][context2][context3] {}'})
    """
    text = model.text_model
    if text is model or not isinstance(text, TextEncoder):
        raise ModelError(f"a {text.kind} text tower takes no learned words", where="model", remedy="use a dual "
                         "model whose text tower is CLIP's, SigLIP's or another one of transformers")  # fmt: skip
    if NAME in text.prompts:
        raise ModelError(f"the model has a prompt {NAME!r} already", where="model", remedy="start from one without it")
    starts = [0] * length if length else text.tokenizer(context, add_special_tokens=False)["input_ids"]
    if not starts or len(starts) + 3 > text.max_length:
        what = "no word to learn" if not starts else f"{len(starts)} words of {text.max_length} tokens leave no room"
        place = f"{where.rpartition('.')[0]}.length" if length else where
        raise ModelError(what, where=place, remedy="give fewer" if starts else "give words, or a length")
    names = [f"[context{place}]" for place in range(len(starts))]
    first = min(text.add_tokens(names, starts))
    words = text.encoder.get_input_embeddings().weight
    if length:
        with torch.no_grad():
            words[first:].normal_(std=0.02)
    model.requires_grad_(False)
    train_rows(words, first)
    text.prompts = model.prompts = {**text.prompts, NAME: "".join(names) + " {}"}
    text.default_prompt = model.default_prompt = NAME
    return first


def class_inputs(model: Any, classes: Sequence[str]) -> Inputs:
    """Tokens of the names of classes, with blanks for underscores, behind the context.

    Raises
    ------
    DataError
        Two classes have the same tokens.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("clip", smoke=True).model, 0)
    >>> _ = learn_context(model, "a photo of a", None)
    >>> class_inputs(model, ["circle", "red_square"]).costs
    array([7, 8])
    """
    names = [name.replace("_", " ") for name in classes]
    inputs: Inputs = model.text.prepare(names, NAME)
    rows = [tuple(row) for row in inputs.rows()]
    for place, row in enumerate(rows):
        if row in rows[:place]:
            raise DataError(
                f"the classes {classes[rows.index(row)]!r} and {classes[place]!r} have the same tokens",
                where="data.train", remedy="give them names that the vocabulary tells apart",
            )  # fmt: skip
    return inputs


def class_logits(images: Tensor, texts: Tensor, scale: float) -> Tensor:
    """`scale` times the cosines (n, C) of images (n, D) and classes (C, D), or of classes (n, C, D) for each image.

    Examples
    --------
    >>> import torch
    >>> class_logits(torch.tensor([[2.0, 0.0]]), torch.eye(2), scale=10.0)
    tensor([[10.,  0.]])
    """
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    if texts.ndim == 2:
        return scale * images @ texts.T
    return scale * (images[:, None] * texts).sum(dim=2)


def class_loss(logits: Tensor, target: Tensor, every: Tensor) -> Tensor:
    """Cross-entropies of rows (n, C) that have a class, summed and divided by how many of `every` row have one.

    Parameters
    ----------
    logits : Tensor (n, C)
    target : LongTensor (n,)
        -1 where a row has no class.
    every : LongTensor (B,)
        The targets of the whole batch.

    Examples
    --------
    >>> import torch
    >>> class_loss(torch.zeros(2, 4), torch.tensor([1, -1]), torch.tensor([1, -1, 0, 2]))
    tensor(0.4621)
    """
    losses = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
    return losses / (every >= 0).sum().clamp(min=1)


def shifted_texts(model: Any, names: Inputs, first: int, shifts: Tensor) -> Tensor:
    """Vectors (n, C, D) of C classes with the context of each of n images: its words moved by `shifts` (n, M, H).

    Parameters
    ----------
    names : Inputs
        Tokens of the classes, on the device of the model.
    first : int
        Id of the first learned word.

    Examples
    --------
    >>> import torch
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("gopro", smoke=True).model, 0).eval()
    >>> first = learn_context(model, "a photo of a", None)
    >>> names = class_inputs(model, ["circle", "square"])
    >>> texts = shifted_texts(model, names, first, torch.zeros(3, 4, 32))
    >>> torch.allclose(texts[2], model(names), atol=1e-6)
    True
    """
    count, classes = len(shifts), len(names)
    inputs = names.select(np.tile(np.arange(classes), count)).replace(image=np.repeat(np.arange(count), classes))

    def edit(hidden: Tensor, own: Inputs) -> Tensor:
        word = own.ids - first
        places = torch.nonzero(word >= 0)[:, 0]
        image = torch.from_numpy(own.data["image"][own.owner]).to(hidden.device)
        return hidden.index_add(0, places, shifts[image[places], word[places]].to(hidden.dtype))

    vectors: Tensor = model(inputs, edit=edit)
    return vectors.unflatten(0, (count, classes))


def content_and_style(model: Any, inputs: Any) -> Tensor:
    """What images are like, (n, D + 2 W): their vectors in the shared space, and mean and deviation of their patches,
    the latter two without gradient.

    Examples
    --------
    >>> from PIL import Image
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("clip", smoke=True).model, 0)
    >>> model.dim, model.image.token_width, content_and_style(model, model.prepare([Image.new("RGB", (40, 30))])).shape
    (16, 32, torch.Size([1, 80]))
    """
    patches = model.patch_tokens(inputs)
    style = [patches.tokens.mean(dim=1), patches.tokens.std(dim=1, unbiased=False)]
    return torch.cat([patches.vectors, *(x.detach() for x in style)], dim=1)


class Generator(nn.Module):
    """What an image moves M learned words of width H by: a multilayer perceptron, and a running mean of what it gives.

    It starts with no move at all. The mean is over images, with decay 0.99 a step and without a start of zeros in it.

    Parameters
    ----------
    inputs : int
        Numbers that say what an image is like.
    hidden : int
    words, width : int

    Examples
    --------
    >>> generator = Generator(8, 16, words=4, width=6)
    >>> generator.follow(torch.ones(5, 8))
    >>> generator(torch.ones(5, 8)).shape, generator.value().abs().max()
    (torch.Size([5, 4, 6]), tensor(0.))
    """

    decay = 0.99
    mean: Tensor
    steps: Tensor

    def __init__(self, inputs: int, hidden: int, words: int, width: int) -> None:
        super().__init__()
        self.shape = (words, width)
        self.layers = projector(inputs, hidden, words * width, norm=False)
        last: Any = self.layers[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("mean", torch.zeros(words, width))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """(n, inputs) -> (n, M, H)."""
        moves: Tensor = self.layers(features)
        return moves.unflatten(1, self.shape)

    @torch.no_grad()
    def follow(self, features: Tensor) -> None:
        """Move the mean by a batch (B, inputs)."""
        self.mean.lerp_(self(features).mean(dim=0).to(self.mean.dtype), 1.0 - self.decay)
        self.steps += 1

    def value(self) -> Tensor:
        """The mean (M, H)."""
        return self.mean / (1.0 - self.decay ** max(1.0, self.steps.item()))
