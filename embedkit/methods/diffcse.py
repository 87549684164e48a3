"""DiffCSE: sentence vectors that tell a discriminator which words of the sentence were replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Fidelity, File, NotNegative, Share
from embedkit.methods.base import methods
from embedkit.methods.simcse import SimCSEUnsupervised

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("diffcse")
class DiffCSE(SimCSEUnsupervised):
    """Difference-based contrastive learning (Chuang et al. 2022, section 4).

    To unsupervised SimCSE, here with a BatchNorm projector over the rows of both views, it adds a second task. Each of
    the 2B rows is masked (share ``mask_rate`` of its tokens) and filled in by a frozen masked language model, the
    generator. A discriminator, a second encoder that starts as a copy of the first, reads the edited sentence with the
    *projected sentence vector in place of its first token* behind the embedding layer, and says of every token
    whether it was replaced. Its loss, times ``weight``, flows through the sentence vector into the encoder. Generator,
    discriminator and projector are dropped at inference: the vector is [CLS].

    What the official code does, and ``fidelity: code`` repeats, because it made the numbers: the generator's most
    probable token is taken (no sampling) at *every* place, not at the masked ones only, and the first token is put
    back; the generator's dropout is on; the loss is a mean over all 2B x L places, padding included, L the longest row
    of the batch. The label of padding is always "kept", a task the discriminator solves at once; here these places
    count in the mean and add no loss. ``fidelity: paper`` draws from the generator's probabilities, edits masked places
    only, turns the generator's dropout off and sums the loss over the tokens of a row; ``weight`` then needs another
    value, 0.005 belongs to the mean.

    Parameters
    ----------
    generator : str or None
        Folder or hub id of a masked language model with the encoder's vocabulary; None takes the encoder itself as it
        is before training.
    mask_rate : float
        Share of tokens that are masked for the generator.
    weight : float
        lambda of the discriminator's loss.
    fidelity : str
        "code" or "paper".

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["diffcse"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'infonce')
    """

    paper: ClassVar[str] = "Chuang et al. 2022, NAACL, section 4"
    takes_parts: ClassVar[bool] = False

    def __init__(
        self, generator: File | None = "distilbert-base-uncased", mask_rate: Share = 0.3, weight: NotNegative = 0.005,
        fidelity: Fidelity = "code",
    ) -> None:  # fmt: skip
        self.generator, self.mask_rate, self.weight, self.fidelity = generator, mask_rate, weight, fidelity

    def parts(self, model: Model) -> nn.ModuleDict:
        import copy

        from torch import nn

        from embedkit.methods.common.parts import BatchNormProjector, generator

        text: Any = model
        discriminator: Any = copy.deepcopy(model)
        discriminator.dense = nn.ModuleList()
        return nn.ModuleDict(
            {
                "projector": BatchNormProjector(model.training_dim),
                "discriminator": discriminator,
                "replaced": nn.Linear(text.hidden_size, 2),
                "generator": generator(self.generator, model, dropout=self.fidelity == "code"),
            }
        )

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        import torch

        both = parts["projector"](torch.cat([outputs["anchor"], outputs["positive"]]))  # (2B, D), one set of statistics
        anchor, positive = both.split(len(outputs["anchor"]))
        return {"anchor": anchor, "positive": positive}

    def local_terms(
        self, name: str, embeddings: Tensor, inputs: Any, batch: ObjectiveBatch, model: Any, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch
        import torch.nn.functional as F

        from embedkit.methods.common.parts import replace_first
        from embedkit.models.modules.masked import in_input_order

        edited = self.edited(inputs, model, parts)
        discriminator: Any = parts["discriminator"]
        states = discriminator.token_states(edited.replace(first=embeddings), edit=replace_first)
        logits = parts["replaced"](in_input_order(states, edited))  # (T, 2)
        replaced = (edited.ids != inputs.ids).long()
        loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), replaced, reduction="sum")
        rows = len(batch.owner["anchor"]) + len(batch.owner["positive"])
        places: Any = 1
        if self.fidelity == "code":
            places = torch.stack([batch.lengths[view].amax() for view in ("anchor", "positive")]).amax()
        return {"replaced": self.weight * loss / (rows * places)}

    def edited(self, inputs: Any, model: Any, parts: nn.ModuleDict) -> Any:
        """The inputs with tokens that the generator put there."""
        import torch

        from embedkit.models.modules.masked import hide_tokens

        hidden = hide_tokens(inputs, model.tokenizer, self.mask_rate)
        frozen: Any = parts["generator"]
        ids = frozen.module.guesses(hidden.inputs, sample=self.fidelity == "paper")
        if self.fidelity == "paper":
            ids = torch.where(torch.from_numpy(hidden.targets).to(ids.device), ids, inputs.ids)
        first = torch.from_numpy(inputs.offsets[:-1]).to(ids.device)
        return inputs.replace(ids=ids.index_copy(0, first, inputs.ids[first]))
