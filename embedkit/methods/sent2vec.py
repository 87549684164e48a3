"""Sent2Vec: word and n-gram vectors whose mean predicts the missing word of a sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import File, Positive, Rate, Whole, refuse_idle
from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.views.words import stay_rate, word_counts, words_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model


@methods.add("sent2vec")
class Sent2Vec(Method):
    """A static encoder (word pieces and word n-grams) trained on sentences alone (Pagliardini et al. 2018, section 2).

    A word of a sentence is hidden; the mean vector of all that is left, n-grams included, predicts it by its vector
    in an output table, which is dropped at inference. A hidden word leaves ``placeholder`` behind, so that n-grams
    around it hold the placeholder. Words are drawn with the weight ``min(1, sqrt(t / f) + t / f)`` of their frequency
    f, and only words seen ``least`` times or more. The objective is logistic, on dot products: l(s_target) + sum over
    negatives of l(-s), l(x) = log(1 + e^-x).

    What differs from the official code:

    - One word a sentence and visit is predicted, not every word that sub-sampling keeps: give more epochs.
    - Negatives are the targets of the other rows of the batch. Since targets are sub-sampled, their law is close to the
      count^0.5 that the code draws its ten negatives from; equal words do not repel. The objective's bias
      log(10 / (B - 1)) puts the optimum where ten negatives have it.
    - Units are the tokenizer's word pieces (a word of several has their mean as target vector), not whole words of a
      vocabulary. N-grams are hashed words all the same.
    - N-gram dropout drops each n-gram with a probability, not those around up to K positions.
    - AdamW, not SGD with one rate for all.
    - Settings: the published unigram and bigram models have t 5e-6, vocabulary words seen 8 times, targets 20 times.
    - Training text is in lower case, so the tokenizer must be one that makes it so at inference too.

    On the 112,000 Wikipedia sentences tried here the logistic objective lowered STS-B dev in every setting tried, and a
    softmax over cosines (`infonce`, temperature 0.2, as the shipped recipe has it) raised it a little. Why was not
    isolated; the published models saw tens of millions of sentences.

    Parameters
    ----------
    frequencies : str or None
        A file of sentences (column ``text``, ``anchor`` or ``sentence``) whose words are counted, usually the training
        text; without one all words are drawn alike.
    t : float
        Threshold of sub-sampling.
    least : int
        Times that a target was seen at least; only with `frequencies`.
    ngram_dropout : float
        Probability that an n-gram is left out in training.
    placeholder : str
        A special token of the tokenizer.
    start : float or None
        Standard deviation that a new input table is scaled to; the model's own start when None.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["sent2vec"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'table')
    """

    paper: ClassVar[str] = "Pagliardini et al. 2018, NAACL, section 2"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))
    objective: ClassVar[dict[str, Any]] = {
        "name": "table", "score": "dot", "temperature": 1.0, "bias": -4.6, "reducer": "sigmoid", "equal_inputs": True,
    }  # fmt: skip

    def __init__(
        self, frequencies: File | None = None, t: Rate = 5e-6, least: Whole = 5, ngram_dropout: Rate = 0.3,
        placeholder: str = "[UNK]", start: Positive | None = None,
    ) -> None:  # fmt: skip
        refuse_idle(Sent2Vec, {} if frequencies else {"t": t, "least": least}, "method", "frequencies")
        self.frequencies, self.t, self.least = frequencies, t, least
        self.ngram_dropout, self.placeholder, self.start = ngram_dropout, placeholder, start

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def adapt(self, model: Model) -> None:
        if model.kind != "static":
            raise ModelError(f"is a {model.kind} model", where="model.kind", remedy="sent2vec trains kind: static")
        if self.start is not None:
            import torch

            table: Any = model.embedding
            with torch.no_grad():
                table.weight.mul_(self.start / table.weight.std())

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        table = nn.Embedding(model.pieces, model.dim)  # type: ignore[arg-type]
        nn.init.zeros_(table.weight)
        return nn.ModuleDict({"output": table})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        contexts, targets, owner = [], [], list(range(len(rows)))
        for i, row in enumerate(rows):
            words = words_of(row["anchor"])
            place = self.draw(words, random(i))
            targets.append(words[place])
            contexts.append(" ".join([*words[:place], self.placeholder, *words[place + 1 :]]))
        return {
            "anchor": View(contexts, owner, guided=False),
            "positive": View(targets, owner, settings={"side": "output"}, guided=False),
        }

    def outline(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        plain = copy.copy(self)
        plain.frequencies = None
        return plain.views(rows, random)

    def draw(self, words: Sequence[str], random: np.random.Generator) -> int:
        """The place of the word to be hidden."""
        weights = np.ones(len(words))
        if self.frequencies is not None:
            rates = stay_rate(words, *word_counts(self.frequencies), self.t, self.least)
            weights = rates if rates.any() else weights
        return int(random.choice(len(words), p=weights / weights.sum()))

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, side: str = "input", **settings: Any) -> Tensor:
        """Mean vectors (n, D) of contexts by the encoder, or of targets by the output table."""
        import torch
        import torch.nn.functional as F

        from embedkit.models.augment.counter_rng import uniforms

        single = (inputs.ids < model.pieces).cpu().numpy()
        if side == "output":  # a target such as "it's" is several words to the tokenizer; its n-grams have no row
            table: Any = parts["output"]
            counts = np.bincount(inputs.owner, single, len(inputs)).clip(1)
            shares = torch.from_numpy(single / counts[inputs.owner]).to(table.weight)
            ids, offsets = inputs.ids.clamp(max=model.pieces - 1), torch.from_numpy(inputs.offsets[:-1])
            return F.embedding_bag(ids, table.weight, offsets.to(inputs.device), mode="sum", per_sample_weights=shares)
        if model.training and self.ngram_dropout > 0 and model.ngrams > 1:
            inputs = inputs.keep(single | (uniforms(inputs, "ngrams") >= self.ngram_dropout))
        return model(inputs, **settings)
