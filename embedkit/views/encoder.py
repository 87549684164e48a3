"""Views that change how the encoder sees a text: dropout, positions, cutoffs, noise, an adversary.

They are settings of a forward pass (see `embedkit.models.modules.text.TextEncoder.token_states`); what they
draw depends only on the seed of the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedkit.config.settings import NotNegative, Rate
from embedkit.views.base import Step, views

if TYPE_CHECKING:
    from torch import Tensor

    from embedkit.models.inputs.inputs import Inputs


@views.add("dropout")
def dropout(rate: Rate) -> Step:
    """All dropout of the encoder at this rate; views of several rates as in SupCL-Seq (Sedghamiz et al. 2021).

    Examples
    --------
    >>> from embedkit.views.base import Chain
    >>> Chain.of({"name": "dropout", "rate": 0.3}).forward
    {'dropout': 0.3}
    """
    return Step(forward={"dropout": rate})


@views.add("token-shuffle")
def token_shuffle() -> Step:
    """Permuted position ids, special tokens included; the tokens stay in place (ConSERT, Yan et al. 2021, section 3.2).

    Examples
    --------
    >>> from embedkit.views.base import Chain
    >>> Chain.of("token-shuffle").forward
    {'shuffle': True}
    """
    return Step(forward={"shuffle": True})


@views.add("token-cutoff")
def token_cutoff(rate: Rate = 0.15) -> Step:
    """Zero this share of a text's token embeddings (ConSERT).

    Examples
    --------
    >>> from embedkit.views.base import Chain
    >>> Chain.of("token-cutoff").forward
    {'token_cutoff': 0.15}
    """
    return Step(forward={"token_cutoff": rate})


@views.add("feature-cutoff")
def feature_cutoff(rate: Rate = 0.2) -> Step:
    """Zero this share of the dimensions of the token embeddings, the same for all tokens of a text (ConSERT).

    Examples
    --------
    >>> from embedkit.views.base import Chain
    >>> Chain.of("feature-cutoff").forward
    {'feature_cutoff': 0.2}
    """
    return Step(forward={"feature_cutoff": rate})


@views.add("element-cutoff")
def element_cutoff(rate: Rate = 0.2) -> Step:
    """Zero this share of the single numbers of the token embeddings, without rescaling (ConSERT's "dropout").

    Examples
    --------
    >>> from embedkit.views.base import Chain
    >>> Chain.of("element-cutoff").forward
    {'element_cutoff': 0.2}
    """
    return Step(forward={"element_cutoff": rate})


@views.add("noise")
def noise(deviation: NotNegative = 0.01) -> Step:
    """Add Gaussian noise to the token embeddings.

    Examples
    --------
    >>> from embedkit.views.base import Chain
    >>> Chain.of("noise").forward
    {'noise': 0.01}
    """
    return Step(forward={"noise": deviation})


@views.add("adversarial")
def adversarial(epsilon: NotNegative = 1.0) -> Step:
    """Add the perturbation of length `epsilon` per text that moves its vector most, see `adversary`.

    Examples
    --------
    >>> from embedkit.views.base import Chain
    >>> Chain.of("adversarial").forward
    {'adversarial': 1.0}
    """
    return Step(forward={"adversarial": epsilon})


def adversary(embed: Any, inputs: Inputs, epsilon: float, probe: float = 1e-2) -> Any:
    """Virtual adversarial noise: the edit of the token embeddings that changes the vectors of these inputs most.

    One step of power iteration (Miyato et al. 2018, section 3.3): with random d of length `probe` per text, g is the
    gradient of 1 - cos(f(x + d), f(x)) by d, and the perturbation epsilon g / |g|. It needs no label, and depends on
    the text alone, so that it fits any objective; ConSERT's FGV takes the gradient of a supervised loss instead.

    Parameters
    ----------
    embed : callable
        ``embed(edit) -> vectors (n, K)`` of the inputs under an edit (or None).
    inputs : Inputs
        With seeds.
    epsilon, probe : float
        Euclidean lengths, over all tokens of a text.

    Returns
    -------
    callable
        An `embedkit.models.augment.embedding_augmentation.Edit`.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from embedkit.models.inputs.inputs import Inputs
    >>> inputs = Inputs.of([[5, 6], [7]], data={"seeds": np.array([1, 2], dtype=np.uint64)})
    >>> hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> def embed(edit):
    ...     states = hidden if edit is None else edit(hidden, inputs)
    ...     return torch.stack([states[:2].mean(0), states[2]])
    >>> edit = adversary(embed, inputs, epsilon=0.5)
    >>> torch.nn.functional.cosine_similarity(embed(edit), embed(None)).min() < 0.95
    tensor(True)
    """
    import torch

    from embedkit.models.augment.embedding_augmentation import normal

    leaf: dict[str, Any] = {}

    def probing(hidden: Tensor, now: Inputs) -> Tensor:
        start = per_text(normal(hidden, now, "adversarial"), now) * probe
        leaf["direction"] = start.detach().requires_grad_()
        return hidden.detach() + leaf["direction"]

    # Both passes draw the same dropout masks: the distance is that of the perturbation alone.
    device = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=device), torch.no_grad():
        clean = embed(None)
    with torch.enable_grad():
        vectors = embed(probing)
        distance = 1 - torch.nn.functional.cosine_similarity(vectors.float(), clean.float(), dim=1)
        (gradient,) = torch.autograd.grad(distance.sum(), leaf["direction"])

    def edit(hidden: Tensor, now: Inputs) -> Tensor:
        return hidden + epsilon * per_text(gradient.to(hidden.dtype), now)  # tokens stand in the same order

    return edit


def per_text(values: Tensor, inputs: Inputs) -> Tensor:
    """Token rows (T, H) divided by the Euclidean norm over all tokens of their text; zero where that is zero.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.inputs.inputs import Inputs
    >>> inputs = Inputs.of([[5, 6], [7]])  # two tokens, then one
    >>> per_text(torch.tensor([[3.0], [4.0], [2.0]]), inputs)
    tensor([[0.6000],
            [0.8000],
            [1.0000]])
    """
    import torch

    owner = torch.from_numpy(inputs.owner).to(values.device)
    square = values.new_zeros(len(inputs)).index_add(0, owner, values.square().sum(dim=1))
    length = square.sqrt().clamp_min(torch.finfo(values.dtype).tiny)
    return values / length[owner, None]
