"""Topics by a variational decoder and a contrast of sets of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import NotNegative
from embedkit.errors import ModelError
from embedkit.methods.base import methods
from embedkit.methods.views import Roles

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("topic-moco")
class TopicMoCo(Roles):
    """A topic model with a contrast of sets (after Nguyen et al. 2024, ICLR), a reconstruction.

    Only the abstract was at hand [A]: a neural topic model whose loss and a contrast between sets of topic vectors are
    weighed as a multi-objective problem. Here the sentence encoder with a linear head of T topics (``model.head: {kind:
    linear, dim: T}``) gives the mean m of a normal law over topic scores, a second head its variance s²; the topics of
    a text are ``t = softmax(m + s e)``, e standard normal numbers of the text. The terms, means over all texts, are
    ``rebuild * -Σ_w log softmax(B t + b)_w`` over the tokens w of the text, special ones aside (ProdLDA, Srivastava
    and Sutton 2017), and ``divergence * KL(N(m, s²) || N(0, 1))``. The objective sees t; its default is the contrast
    of sets. Weights are fixed, not Pareto ones: objective `mgda` weighs what reads the embeddings, and the two terms
    read words and parameters of the law. The saved model gives m, whose softmax are the topics of a text; B, the words
    of the topics, is in the checkpoints (``parts.decoder.weight``), row w of it for token w.

    Parameters
    ----------
    rebuild, divergence : float
        Weights of the two terms.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["topic-moco"]()
    >>> sorted(method.contract.requires), method.objective["name"]
    (['anchor'], 'set-contrast')
    """

    paper: ClassVar[str] = "Nguyen et al. 2024, ICLR (arXiv 2402.07577), abstract"
    objective: ClassVar[dict[str, Any]] = {"name": "set-contrast"}
    takes_parts: ClassVar[bool] = False

    def __init__(self, rebuild: NotNegative = 1.0, divergence: NotNegative = 1.0) -> None:
        self.rebuild, self.divergence = rebuild, divergence

    def adapt(self, model: Model) -> None:
        from embedkit.models.modules.text import TextEncoder

        if not isinstance(model, TextEncoder) or not any(not layer.train_only for layer in model.layers):
            raise ModelError("topics need a text encoder with a head of their number", where="model.head",
                             remedy="set model.head: {kind: linear, dim: 50}")  # fmt: skip

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        text: Any = model
        words = len(text.encoder.get_input_embeddings().weight)
        size = text.hidden_size * (text.pooling.count("+") + 1)
        return nn.ModuleDict(
            {"spread": nn.Linear(size, model.training_dim), "decoder": nn.Linear(model.training_dim, words)}
        )

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """Of each text its topics, the loss of its words, and the divergence: (n, T + 2)."""
        import torch

        states = model.pooled(inputs, **settings)
        mean, log_variance = model.project(states), parts["spread"](states)
        noise = torch.from_numpy(_normals(inputs, mean.shape[1])).to(mean)
        topics = (mean + (0.5 * log_variance).exp() * noise).softmax(dim=1)
        guesses = parts["decoder"](topics).log_softmax(dim=1)
        special = torch.tensor(model.tokenizer.all_special_ids, device=inputs.device)
        owner = torch.from_numpy(inputs.owner).to(inputs.device)
        real = ~torch.isin(inputs.ids, special)
        words = -guesses[owner[real], inputs.ids[real]]
        rebuilt = words.new_zeros(len(inputs)).index_add(0, owner[real], words)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        return torch.cat([topics, rebuilt[:, None], divergence[:, None].to(rebuilt.dtype)], dim=1)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {name: z[:, :-2] for name, z in outputs.items()}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.methods.common.parts import own_rows

        rows = sum(len(z) for z in outputs.values())
        mine = torch.cat([z[own_rows(batch.owner[name], batch.rows), -2:] for name, z in outputs.items()])
        rebuilt, divergence = mine.sum(dim=0) / rows
        return {"rebuilt": self.rebuild * rebuilt, "divergence": self.divergence * divergence}


def _normals(inputs: Inputs, width: int) -> np.ndarray:
    """Standard normal numbers (n, width) of the seeds of texts (Box and Muller 1958)."""
    import numpy as np

    from embedkit.models.augment.counter_rng import uniforms

    radius, angle = (uniforms(inputs, f"topics-{part}", width) for part in ("radius", "angle"))
    return np.sqrt(-2.0 * np.log1p(-radius)) * np.cos(2.0 * np.pi * angle)  # type: ignore[no-any-return]
