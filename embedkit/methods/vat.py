"""The virtual adversarial term: what a model says of a text must not change when its embeddings are pushed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from embedkit.config.settings import Count, Positive, Rate, refuse_idle
from embedkit.methods.base import methods
from embedkit.methods.simctg import TokenTerm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs


@methods.add("vat")
class VirtualAdversarial(TokenTerm):
    """Virtual adversarial training (Miyato et al. 2018), as URLBERT has it on its masked-word model (Li et al. 2024).

    Noise on the embedding layer's output, found by power iteration (`embedkit.views.encoder.adversary`), is the
    direction in which the output changes most; the term is how much it changes: with ``reads: words``
    ``KL(clean || noisy) + KL(noisy || clean)`` of the words guessed at every token of the masked text, the first of
    each pair without gradient, as a mean over the tokens of the batch; with ``reads: vectors`` 1 - cosine of the
    vectors, the clean one without gradient, as a mean over texts.

    The constants are those of URLBERT's code: noise of 1e-5, one gradient times 1e-3 added, length 1 per token. There
    a batch's mean loss gives the gradient, here the sum over a text, so that the noise of a text depends on it alone.
    ``reads: words`` keeps the logits of all tokens: with a large vocabulary lower `train.chunk_tokens`.

    Parameters
    ----------
    reads : str
        "words", through the encoder's masked-word head (added where it has none), or "vectors".
    epsilon : float
        Length of the noise.
    steps, step_size, start : int, float, float
        Gradients, their factor, and the standard deviation of the noise at the start.
    per : str
        "token" or "text": what the length is of.
    rate : float
        Share of tokens that are masked first; only with ``reads: words``.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["vat"](reads="vectors")
    >>> method.objective is None, method.steps, method.step_size
    (True, 1, 0.001)
    """

    paper: ClassVar[str] = "Miyato et al. 2018, TPAMI, section 3; Li et al. 2024, URLBERT (arXiv 2402.11495)"
    term: ClassVar[str] = "vat"

    def __init__(
        self, reads: Literal["words", "vectors"] = "words", epsilon: Positive = 1.0, steps: Count = 1,
        step_size: Positive = 1e-3, start: Positive = 1e-5, per: Literal["text", "token"] = "token",
        rate: Rate = 0.15,
    ) -> None:  # fmt: skip
        refuse_idle(VirtualAdversarial, {"rate": rate} if reads == "vectors" else {}, "method", "reads: words")
        self.output, self.rate = reads, rate
        self.epsilon, self.steps, self.step_size, self.start, self.per = epsilon, steps, step_size, start, per

    def adapt(self, model: Model) -> None:
        super().adapt(model)
        text: Any = model
        if self.output == "words" and text.mask_head is None:
            from embedkit.formats.transformers.masked_head import masked_head

            text.mask_head = masked_head(model)

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """For each text its sum over tokens and their number, or its distance and 1: (n, 2)."""
        import torch

        from embedkit.views.encoder import adversary, cosine_distances

        if self.output == "vectors":

            def vectors(edit: Any) -> Tensor:
                return model(inputs, edit=edit, **settings)  # type: ignore[no-any-return]

            clean = vectors(None).detach()
            edit = adversary(vectors, inputs, distances=cosine_distances, **self._search())
            losses = cosine_distances(vectors(edit), clean)
            return torch.stack([losses, torch.ones_like(losses)], dim=1)
        return self._of_words(model, inputs, settings)

    def _of_words(self, model: Any, inputs: Inputs, settings: dict[str, Any]) -> Tensor:
        import torch

        from embedkit.models.modules.masked import hide_tokens, in_input_order
        from embedkit.views.encoder import adversary

        hidden = hide_tokens(inputs, model.tokenizer, self.rate, "vat-mask").inputs if self.rate else inputs
        words = model.encoder.get_input_embeddings().weight

        def guesses(edit: Any) -> Tensor:
            states = in_input_order(model.token_states(hidden, edit=edit, **settings), hidden)
            logits = model.mask_head(states, words)
            return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(dim=1)

        edit = adversary(guesses, hidden, distances=lambda noisy, clean: divergences(clean, noisy), **self._search())
        clean, noisy = guesses(None), guesses(edit)
        losses = divergences(clean.detach(), noisy) + divergences(noisy.detach(), clean)
        owner = torch.from_numpy(inputs.owner).to(losses.device)
        zeros = losses.new_zeros(len(inputs))
        return torch.stack([zeros.index_add(0, owner, losses), zeros.index_add(0, owner, losses * 0 + 1)], dim=1)

    def _search(self) -> dict[str, Any]:
        names = ("epsilon", "steps", "step_size", "start", "per")
        return {**{name: getattr(self, name) for name in names}, "stream": "vat"}


def divergences(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of each row of two tables of log probabilities, (T, V), (T, V) -> (T,).

    Examples
    --------
    >>> import torch
    >>> even, sure = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    >>> divergences(even, sure)
    tensor([0.1438])
    """
    return (first.exp() * (first - second)).sum(dim=1)
