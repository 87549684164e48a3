"""Views that change how the encoder sees a text: dropout, positions, cutoffs, noise, an adversary.

They are settings of a forward pass (see `embedkit.models.modules.text.TextEncoder.token_states`); what they
draw depends only on the seed of the input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from embedkit.config.settings import Count, NotNegative, Positive, Rate
from embedkit.views.base import Step, views

if TYPE_CHECKING:
    from torch import Tensor

    from embedkit.models.inputs.inputs import Inputs


@views.add("dropout")
def dropout(rate: Rate) -> Step:
    """All dropout of the encoder at this rate; views of several rates as in SupCL-Seq (Sedghamiz et al. 2021).

    Parameters
    ----------
    rate : float
        Share of the numbers that are zeroed.

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

    Parameters
    ----------
    rate : float
        Share of the tokens.

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

    Parameters
    ----------
    rate : float
        Share of the dimensions.

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

    Parameters
    ----------
    rate : float
        Share of the numbers.

    Examples
    --------
    >>> from embedkit.views.base import Chain
    >>> Chain.of("element-cutoff").forward
    {'element_cutoff': 0.2}
    """
    return Step(forward={"element_cutoff": rate})


@views.add("column-cutoff")
def column_cutoff(rate: Rate = 0.2) -> Step:
    """Zero this share of the columns of a sequence, the same ones at all its steps, without rescaling.

    Parameters
    ----------
    rate : float
        Share of the columns.

    Examples
    --------
    >>> from embedkit.views.base import Chain
    >>> Chain.of("column-cutoff").forward
    {'column_cutoff': 0.2}
    """
    return Step(forward={"column_cutoff": rate})


@views.add("noise")
def noise(deviation: NotNegative = 0.01) -> Step:
    """Add Gaussian noise to the token embeddings.

    Parameters
    ----------
    deviation : float
        Standard deviation of the noise.

    Examples
    --------
    >>> from embedkit.views.base import Chain
    >>> Chain.of("noise").forward
    {'noise': 0.01}
    """
    return Step(forward={"noise": deviation})


@views.add("adversarial")
def adversarial(
    epsilon: NotNegative = 1.0, steps: Count = 1, step_size: Positive | None = None, start: Positive = 1e-2,
    per: Literal["text", "token"] = "text",
) -> Step:  # fmt: skip
    """Add the perturbation of length `epsilon` that moves a text's vector most, see `adversary`.

    URLBERT's views (Li et al. 2024): ``{epsilon: 1.0, steps: 2, step_size: 0.1, start: 1.0e-5, per: token}``, and a
    step size of 1e-5 in the other one; there the distance is that of predicted words.

    Parameters
    ----------
    steps : int
        Gradients that the search takes.
    step_size : float or None
        Of a gradient that is added to the noise; None puts the gradient in its place.
    start : float
        Length of the noise that the search begins with.
    per : str
        What has the length `epsilon`: the whole "text", or each "token".

    Examples
    --------
    >>> from embedkit.views.base import Chain
    >>> Chain.of("adversarial").forward
    {'adversarial': 1.0}
    >>> Chain.of({"name": "adversarial", "steps": 2, "step_size": 0.1}).forward
    {'adversarial': {'epsilon': 1.0, 'steps': 2, 'step_size': 0.1, 'start': 0.01, 'per': 'text'}}
    """
    if (steps, step_size, start, per) == (1, None, 1e-2, "text"):
        return Step(forward={"adversarial": epsilon})
    search = {"epsilon": epsilon, "steps": steps, "step_size": step_size, "start": start, "per": per}
    return Step(forward={"adversarial": search})


def cosine_distances(vectors: Tensor, clean: Tensor) -> Tensor:
    """1 - cosine of each row of two matrices, in float32 at least: (N, K), (N, K) -> (N,).

    Examples
    --------
    >>> import torch
    >>> cosine_distances(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.4000])
    """
    import torch

    one, other = (z if z.dtype == torch.float64 else z.float() for z in (vectors, clean))
    return 1 - torch.nn.functional.cosine_similarity(one, other, dim=1)


def adversary(
    embed: Any, inputs: Inputs, epsilon: float, start: float = 1e-2, *, steps: int = 1, step_size: float | None = None,
    per: str = "text", distances: Callable[[Tensor, Tensor], Tensor] = cosine_distances, stream: str = "adversarial",
) -> Any:  # fmt: skip
    """Virtual adversarial noise: the edit of the token embeddings that changes what these inputs give most.

    Power iteration (Miyato et al. 2018, section 3.3): from random noise d of length `start`, `steps` times g is the
    gradient of the distances between f(x + d) and f(x) by d, and d becomes g, or with a `step_size` d + step_size g;
    the perturbation is epsilon d / |d|. It needs no label, and depends on the text alone, so that it fits any
    objective; ConSERT's FGV takes the gradient of a supervised loss instead.

    Parameters
    ----------
    embed : callable
        ``embed(edit) -> (n, K)``, vectors of the inputs under an edit (or None); or whatever `distances` takes.
    inputs : Inputs
        With seeds.
    epsilon, start : float
        Euclidean lengths; the start is drawn with this length per text, or per token with it as standard deviation.
    steps : int
        Gradients.
    step_size : float, optional
        Of a gradient added to the noise; None puts the gradient in its place.
    per : str
        "text" or "token": what the lengths are of.
    distances : callable
        ``distances(noisy, clean)``, whose sum is climbed.
    stream : str
        Names the random numbers.

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

    state: dict[str, Any] = {}

    def probing(hidden: Tensor, now: Inputs) -> Tensor:
        if "noise" not in state:  # tokens stand in the same order in each pass
            start_noise = normal(hidden, now, stream)
            state["noise"] = (per_text(start_noise, now) if per == "text" else start_noise) * start
        state["leaf"] = state["noise"].detach().requires_grad_()
        return hidden.detach() + state["leaf"]

    # All passes draw the same dropout masks: the distance is that of the perturbation alone.
    device = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=device), torch.no_grad():
        clean = embed(None)
    for step in range(steps):
        last = contextlib.nullcontext() if step == steps - 1 else torch.random.fork_rng(devices=device)
        with last, torch.enable_grad():
            distance = distances(embed(probing), clean).sum()
            (gradient,) = torch.autograd.grad(distance, state["leaf"])
        state["noise"] = gradient if step_size is None else state["noise"] + step_size * gradient

    return _moved(state["noise"], epsilon, per)


def steepest(
    embed: Callable[[Inputs, Any], Tensor], sides: Sequence[Inputs], loss: Callable[..., Tensor], epsilon: float,
    per: str = "text",
) -> list[Tensor]:  # fmt: skip
    """Vectors of several inputs whose token embeddings are moved to where a loss of all of them is larger.

    One step of length `epsilon` along the gradient ("fast gradient value", Miyato et al. 2017, section 3, as ConSERT
    uses it). `adversary` needs no loss.

    Parameters
    ----------
    embed : callable
        ``embed(inputs, edit) -> (n, K)``.
    sides : sequence of Inputs
        What the loss is of.
    loss : callable
        ``loss(*vectors)``, a sum over rows.
    epsilon : float
        Euclidean length.
    per : str
        "text" or "token": what the length is of.

    Returns
    -------
    list of Tensor
        (n, K) for each of the inputs.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.inputs.inputs import Inputs
    >>> inputs = Inputs.of([[5]])
    >>> def embed(inputs, edit):
    ...     return edit(torch.tensor([[1.0, 0.0]]), inputs)
    >>> steepest(embed, [inputs], lambda z: (2 * z).sum() + z[0, 1], epsilon=1.0)
    [tensor([[1.5547, 0.8321]])]
    """
    import torch

    leaves: list[Tensor] = []

    def probing(hidden: Tensor, now: Inputs) -> Tensor:
        leaves.append(torch.zeros_like(hidden, requires_grad=True))
        return hidden.detach() + leaves[-1]

    with torch.enable_grad():
        gradients = torch.autograd.grad(loss(*(embed(side, probing) for side in sides)), leaves)
    edits = [_moved(gradient, epsilon, per) for gradient in gradients]
    return [embed(side, edit) for side, edit in zip(sides, edits, strict=True)]


def _moved(direction: Tensor, epsilon: float, per: str) -> Any:
    """The edit that adds a `direction` (T, H), each text's or token's brought to the length `epsilon`."""

    def edit(hidden: Tensor, now: Inputs) -> Tensor:
        step = direction.to(hidden.dtype)
        return hidden + epsilon * (per_text(step, now) if per == "text" else _per_token(step))

    return edit


def _per_token(values: Tensor) -> Tensor:
    """Token rows (T, H) of length 1; zero stays zero."""
    import torch

    length = torch.linalg.vector_norm(values, dim=1, keepdim=True)
    return values / length.clamp_min(torch.finfo(values.dtype).tiny)


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
