"""Slot `score`: the similarity of an anchor and a candidate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.matrix.similarity import Side
from embedkit.objectives.matrix.stats import Part, Pointwise
from embedkit.objectives.parts.slots import part
from embedkit.objectives.tools import choice, number, unit, whole


class Score(nn.Module):
    """Base class of scores: features of each side, whose dot products go through a function. The base is the cosine.

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.tensor([[3.0, 4.0]]), {})
    >>> Score().features(side, "left", ObjectiveBatch.of({"anchor": side.z}))
    tensor([[0.6000, 0.8000]])
    """

    lowest: float | None = -1.0
    """The smallest score there is; None when there is no bound."""
    cosine = True
    """Whether scores are cosines, as an angular margin needs."""
    requires: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.function = Pointwise()

    def features(self, side: Side, role: str, batch: ObjectiveBatch) -> Tensor:
        """Features (N, F) of a side; `role` is "left" or "right"."""
        return unit(side.z)

    def parts(self, left: Side, right: Side, batch: ObjectiveBatch) -> list[Part]:
        """The summands of the score."""
        return [Part(self._once(left, "left", batch), self._once(right, "right", batch), self.function)]

    def _once(self, side: Side, role: str, batch: ObjectiveBatch) -> Tensor:
        """Features of a side, computed once for both roles where they are the same."""
        key = "both" if self.symmetric else role
        if key not in side.memo:
            side.memo[key] = self.features(side, role, batch)
        return side.memo[key]

    symmetric = True
    """Whether a vector has the same features on both sides."""

    def penalty(self, side: Side) -> Tensor | None:
        """A term added to the loss for each anchor, (n,), or None."""
        return None

    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Update state."""


@part("score", "cosine")
class Cosine(Score):
    """s = cos(a, c); with `relu` that of the vectors' positive parts (Kini et al., ICLR 2024).

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.tensor([[3.0, -4.0]]), {})
    >>> Cosine(relu=True).features(side, "left", ObjectiveBatch.of({"anchor": side.z}))
    tensor([[1., 0.]])
    """

    def __init__(self, relu: bool = False) -> None:
        super().__init__()
        self.relu = bool(relu)

    def features(self, side: Side, role: str, batch: ObjectiveBatch) -> Tensor:
        """Unit vectors."""
        return unit(side.z.relu() if self.relu else side.z)


@part("score", "dot")
class Dot(Score):
    """s = a · c; vectors longer than `cap` are scaled down to it.

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.tensor([[3.0, 4.0]]), {})
    >>> Dot(cap=1.0).features(side, "left", ObjectiveBatch.of({"anchor": side.z}))
    tensor([[0.6000, 0.8000]])
    """

    lowest = None
    cosine = False

    def __init__(self, cap: float | None = None) -> None:
        super().__init__()
        self.cap = None if cap is None else number("cap", cap, above=0)

    def features(self, side: Side, role: str, batch: ObjectiveBatch) -> Tensor:
        """The vectors themselves, capped."""
        if self.cap is None:
            return side.z
        square = (side.z * side.z).sum(-1, keepdim=True)
        return torch.where(square > self.cap**2, unit(side.z) * self.cap, side.z)


class _Distance(Pointwise):
    """-(‖a - c‖^2)^(γ/2) of unit vectors, from their dot product."""

    identity = False

    def __init__(self, gamma: float, weight: float, eps: float) -> None:
        self.gamma, self.weight, self.eps = gamma, weight, eps

    def value(self, s: Tensor) -> Tensor:
        """-weight · distance^γ."""
        return -self.weight * (2 - 2 * s).clamp_min(self.eps) ** (self.gamma / 2)

    def slope(self, s: Tensor) -> Tensor:
        """The derivative; 0 where the distance is clamped to its floor."""
        square = (2 - 2 * s).clamp_min(self.eps)
        return self.weight * self.gamma * square ** (self.gamma / 2 - 1) * (2 - 2 * s > self.eps)


@part("score", "distance")
class Distance(Score):
    """s = -‖a - c‖^gamma of unit vectors (Tan et al., arXiv 2303.15103): 2 is Gaussian, 1 Laplacian.

    Squared distances are clamped to at least `eps`: below gamma 2 the gradient at 0 is infinite. With ``normalize:
    false`` the vectors keep their lengths.

    Parameters
    ----------
    gamma : float
        Power of the distance: 2 is Gaussian, 1 Laplacian.

    Examples
    --------
    >>> import torch
    >>> score = Distance(gamma=2.0)
    >>> left, right = Side(torch.tensor([[1.0, 0.0]]), {}), Side(torch.tensor([[0.0, 1.0]]), {})
    >>> (part,) = score.parts(left, right, ObjectiveBatch.of({"anchor": left.z}))
    >>> part.function.value(part.left @ part.right.T)
    tensor([[-2.]])
    """

    cosine = False

    def __init__(self, gamma: float = 2.0, eps: float = 1e-12, normalize: bool = True) -> None:
        super().__init__()
        self.gamma = number("gamma", gamma, above=0)
        self.function = _Distance(self.gamma, 1.0, number("eps", eps, least=0))
        self.normalize = self.symmetric = bool(normalize)
        self.lowest = -(2**self.gamma) if normalize else None

    def features(self, side: Side, role: str, batch: ObjectiveBatch) -> Tensor:
        """Unit vectors; else vectors whose dot product is 1 - ‖a - c‖² / 2, as that of unit vectors is."""
        if self.normalize:
            return unit(side.z)
        half = side.z.square().sum(-1, keepdim=True) / 2
        one = torch.ones_like(half)
        return torch.cat([side.z, -half, one] if role == "left" else [side.z, one, 1 - half], dim=-1)


@part("score", "halves")
class Halves(Score):
    """The product of two kernels: distances ^gamma and ^gamma2 of the two halves of a vector (Tan et al., section 4).

    s = -‖a1 - c1‖^gamma - ratio · ‖a2 - c2‖^gamma2, with each half a unit vector; `ratio` is T1 / T2.

    Parameters
    ----------
    gamma, gamma2 : float
        Powers of the distances of the two halves.
    eps : float
        Least squared distance.

    Examples
    --------
    >>> import torch
    >>> left, right = Side(torch.tensor([[1.0, 0.0, 1.0, 0.0]]), {}), Side(torch.tensor([[0.0, 1.0, 0.0, 1.0]]), {})
    >>> parts = Halves().parts(left, right, ObjectiveBatch.of({"anchor": left.z}))
    >>> [part.function.value(part.left @ part.right.T) for part in parts]
    [tensor([[-2.]]), tensor([[-1.4142]])]
    """

    cosine = False
    lowest = None

    def __init__(self, gamma: float = 2.0, gamma2: float = 1.0, ratio: float = 1.0, eps: float = 1e-12) -> None:
        super().__init__()
        floor = number("eps", eps, least=0)
        first, second = number("gamma", gamma, above=0), number("gamma2", gamma2, above=0)
        self.functions = _Distance(first, 1.0, floor), _Distance(second, number("ratio", ratio, above=0), floor)

    def parts(self, left: Side, right: Side, batch: ObjectiveBatch) -> list[Part]:
        """One summand for each half."""
        half = left.z.shape[1] // 2
        cuts = (slice(0, half), slice(half, None))
        return [Part(unit(left.z[:, c]), unit(right.z[:, c]), f) for c, f in zip(cuts, self.functions, strict=True)]


@part("score", "centred")
class Centred(Score):
    """Cosine after subtracting the mean direction: unit(unit(z) - c) (Reiss and Hoshen, arXiv 2106.03844).

    The paper's c is the mean unit embedding of the training set by the initial network. Here it is the mean over the
    first `centre_steps` steps, then fixed; it is zero before. `compactness` adds that multiple of the mean squared
    distance of the unit vectors to the unit centre, the paper's angular term.

    Examples
    --------
    >>> import torch
    >>> score = Centred(dim=2)
    >>> z = {"anchor": torch.tensor([[1.0, 0.0], [0.6, 0.8]])}
    >>> score.after_step(z, ObjectiveBatch.of(z))
    >>> score.features(Side(z["anchor"], {}), "left", ObjectiveBatch.of(z))
    tensor([[ 0.4472, -0.8944],
            [-0.4472,  0.8944]])
    """

    def __init__(self, centre_steps: int = 1, compactness: float = 0.0, dim: int | None = None) -> None:
        super().__init__()
        self.centre_steps = whole("centre_steps", centre_steps, least=0)
        self.compactness = number("compactness", compactness, least=0)
        self.register_buffer("centre", torch.zeros(dim or 0))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def _centre(self, z: Tensor) -> Tensor:
        centre = self.get_buffer("centre").to(z.dtype)
        return centre if len(centre) else z.new_zeros(z.shape[1])

    def features(self, side: Side, role: str, batch: ObjectiveBatch) -> Tensor:
        """Unit vectors of the differences from the centre."""
        return unit(unit(side.z) - self._centre(side.z))

    def penalty(self, side: Side) -> Tensor | None:
        """Squared distance of each anchor to the unit centre."""
        if not self.compactness:
            return None
        return self.compactness * (unit(side.z) - unit(self._centre(side.z))).square().sum(-1)

    @torch.no_grad()
    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Update the running mean during the first steps."""
        centre, steps = self.get_buffer("centre"), self.get_buffer("seen")
        if int(steps) < self.centre_steps and len(centre):
            z = torch.cat([unit(z) for name, z in embeddings.items() if name != "negatives"])
            centre.lerp_(z.mean(0).to(centre.dtype), 1.0 / (int(steps) + 1))
            steps.add_(1)


class _Log(Pointwise):
    """The logarithm of a dot product of probabilities."""

    identity = False

    def value(self, s: Tensor) -> Tensor:
        """log s."""
        return s.clamp_min(1e-30).log()

    def slope(self, s: Tensor) -> Tensor:
        """1 / s."""
        return 1 / s.clamp_min(1e-30)


@part("score", "clusters")
class Clusters(Score):
    """log Σ_k π_ik π_jk / Σ_j' π_j'k, with π the softmax of a vector: I-Con's distribution "uniform within a cluster".

    Alshammari et al. 2025 (arXiv 2504.16929). Use temperature 1.

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), {})
    >>> Clusters().features(side, "left", ObjectiveBatch.of({"anchor": side.z}))
    tensor([[0.8808, 0.1192],
            [0.1192, 0.8808]])
    """

    cosine = False
    lowest = None
    symmetric = False

    def __init__(self) -> None:
        super().__init__()
        self.function = _Log()

    def features(self, side: Side, role: str, batch: ObjectiveBatch) -> Tensor:
        """Probabilities of clusters; on the right divided by the size of the cluster."""
        p = side.z.softmax(-1)
        return p if role == "left" else p / p.sum(0).clamp_min(1e-30)


def partners(batch: ObjectiveBatch, mode: str) -> Tensor:
    """The label that each row is paired with, (B,): the same on every process, different at every step.

    mode : "arbitrary" another row's label, "distinct" one that differs from its own if any does, "identical" its own

    Examples
    --------
    >>> import torch
    >>> batch = ObjectiveBatch.of({"anchor": torch.eye(3)}, label=torch.tensor([5, 5, 8]))
    >>> partners(batch, "arbitrary"), partners(batch, "distinct")
    (tensor([5, 8, 5]), tensor([8, 8, 5]))
    """
    label = batch.label
    assert label is not None
    if mode == "identical":
        return label
    # Rows are shifted by a number that depends on the step; "distinct" continues until the label differs.
    shift = 1 + batch.step % max(1, len(label) - 1)
    place = torch.arange(len(label), device=label.device)
    partner = label[(place + shift) % len(label)]
    if mode == "distinct":
        for more in range(1, len(label)):
            partner = torch.where(partner == label, label[(place + shift + more) % len(label)], partner)
    return partner


@part("score", "gated")
class Gated(Score):
    """s = <a ⊙ g², c> of unit vectors, with a gate g(y1, y2) for the anchor's label and its partner's.

    Hydra / SimLAP (arXiv 2410.18200): g = sigmoid(MLP((e_y1 + e_y2) / 2)), without the
    BatchNorm that the authors' MLP has.

    Parameters
    ----------
    classes : int
        Number of labels.
    pairing : str
        Which labels are partners: "arbitrary", "distinct" or "identical".
    label_dim, hidden : int
        Size of a label's embedding, and of the gate's hidden layer.

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.eye(2), {"row": torch.arange(2)})
    >>> batch = ObjectiveBatch.of({"anchor": side.z}, label=torch.tensor([0, 1]))
    >>> Gated(classes=2, label_dim=4, hidden=4, dim=2).features(side, "left", batch).shape
    torch.Size([2, 2])
    """

    cosine = False
    symmetric = False
    requires = frozenset({"label"})

    def __init__(self, classes: int = 1000, pairing: str = "arbitrary", label_dim: int = 512, hidden: int = 1024,
                 dim: int | None = None) -> None:  # fmt: skip
        super().__init__()
        self.pairing = choice("pairing", pairing, ("arbitrary", "distinct", "identical"))
        classes, label_dim = whole("classes", classes, least=1), whole("label_dim", label_dim, least=1)
        hidden = whole("hidden", hidden, least=1)
        self.gate = None if dim is None else nn.Sequential(
            nn.Embedding(classes, label_dim), nn.Linear(label_dim, hidden), nn.ReLU(), nn.Linear(hidden, dim),
            nn.Sigmoid(),
        )  # fmt: skip

    def features(self, side: Side, role: str, batch: ObjectiveBatch) -> Tensor:
        """Unit vectors, those of anchors multiplied by their squared gate."""
        if role == "right" or self.gate is None:
            return unit(side.z)
        embed, layers = self.gate[0], self.gate[1:]
        row = side.id("row")
        assert batch.label is not None
        mean = (embed(batch.label[row]) + embed(partners(batch, self.pairing)[row])) / 2
        return unit(side.z) * layers(mean).to(side.z.dtype) ** 2


@part("score", "rest-mean")
class RestMean(Score):
    """s = a_iα · mean of the other unit views of row j: Poly-View's sufficient statistics [M].

    Hard negatives are scored by their own vectors.

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.eye(3), {"row": torch.tensor([0, 0, 0]), "view": torch.tensor([0, 1, 2])})
    >>> RestMean().features(side, "right", ObjectiveBatch.of({"anchor": torch.eye(1)}))
    tensor([[0.0000, 0.5000, 0.5000],
            [0.5000, 0.0000, 0.5000],
            [0.5000, 0.5000, 0.0000]])
    """

    requires = frozenset({"anchor", "positive"})
    cosine = False
    symmetric = False

    def features(self, side: Side, role: str, batch: ObjectiveBatch) -> Tensor:
        """Unit views on the left; on the right, for each view of a row, the mean of the row's other views."""
        z, row, view = unit(side.z), side.id("row"), side.id("view") >= 0
        if role == "left":
            return z
        total = z.new_zeros(batch.size, z.shape[1]).index_add(0, row[view], z[view])
        count = torch.bincount(row[view], minlength=batch.size).to(z.dtype)
        rest = (total[row] - z) / (count[row] - 1).clamp_min(1)[:, None]
        return torch.where(view[:, None], rest, z)
