"""Against independent implementations, within 1e-6 relative (loss and gradient, fp64).

Each test writes down how temperatures and scalings map. A peer that differs from its paper, or from ours on purpose,
has its difference in the test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from embedkit.objectives import build
from embedkit.objectives.base import ObjectiveBatch

LIMIT = 1e-6
Vectors = dict[str, Tensor]


def draw(size: int = 8, dim: int = 6, count: int = 2, hard: int = 0) -> Vectors:
    """Random views and hard negatives, fp64."""
    torch.manual_seed(3)
    points = torch.randn(size, dim, dtype=torch.float64)
    names = ["anchor", "positive", "view3", "view4"][:count]
    vectors = {name: points + 0.5 * torch.randn_like(points) for name in names}
    if hard:
        vectors["negatives"] = torch.randn(size * hard, dim, dtype=torch.float64)
    return vectors


def check(config: dict[str, Any], vectors: Vectors, peer: Callable[[Vectors], Tensor], factor: float = 1.0,
          prepare: Callable[[nn.Module], None] | None = None, **known: Any) -> None:  # fmt: skip
    """`factor` times the peer's loss, and its gradient, equal ours."""
    ours = {name: z.clone().requires_grad_() for name, z in vectors.items()}
    theirs = {name: z.clone().requires_grad_() for name, z in vectors.items()}
    objective = build(config, dim=vectors["anchor"].shape[1]).double()
    if prepare is not None:
        prepare(objective)
    loss = objective(ours, ObjectiveBatch.of(ours, **known)).loss
    expected = factor * peer(theirs)
    torch.testing.assert_close(loss, expected, rtol=LIMIT, atol=LIMIT)
    loss.backward()
    expected.backward()
    for name, z in theirs.items():
        torch.testing.assert_close(ours[name].grad, z.grad, rtol=LIMIT, atol=LIMIT, msg=lambda m, n=name: f"{n}: {m}")


def unit(z: Tensor) -> Tensor:
    """Rows of length one."""
    return nn.functional.normalize(z, dim=-1)


# ---------------------------------------------------------------------------------------------- lightly


@pytest.fixture(scope="module")
def lightly() -> Any:
    """Its losses."""
    return pytest.importorskip("lightly.loss", reason="needs lightly (development extra)")


def test_lightly_ntxent(lightly: Any) -> None:
    """Same temperature; it averages over the 2B anchors, as ours (SimCLR's code adds the two views: twice that)."""
    peer = lightly.NTXentLoss(temperature=0.3)
    check({"name": "ntxent", "temperature": 0.3}, draw(), lambda v: peer(v["anchor"], v["positive"]))


def test_lightly_moco(lightly: Any) -> None:
    """Same temperature; with a memory bank its NTXentLoss is MoCo's. Filled by hand: both start at random."""
    peer = lightly.NTXentLoss(temperature=0.2, memory_bank_size=(16, 6)).double()
    torch.manual_seed(5)
    keys = unit(torch.randn(16, 6, dtype=torch.float64))
    peer.memory_bank.bank = keys.clone()
    peer.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    fill_and_check(
        {"name": "moco", "temperature": 0.2, "size": 16}, keys, lambda v: peer(v["anchor"], v["positive"].detach())
    )


def fill_and_check(config: dict[str, Any], keys: Tensor, peer: Callable[[Vectors], Tensor]) -> None:
    """Put `keys` into the queue through `after_step`, then compare."""

    def prepare(objective: nn.Module) -> None:
        rows = {"anchor": keys, "positive": keys}
        objective.after_step(rows, ObjectiveBatch.of(rows))

    check(config, draw(), peer, prepare=prepare)


def test_lightly_dcl(lightly: Any) -> None:
    """Same temperature; it averages over the 2B anchors (the code it cites adds the two directions: twice that)."""
    peer = lightly.DCLLoss(temperature=0.3)
    check({"name": "dcl", "temperature": 0.3}, draw(), lambda v: peer(v["anchor"], v["positive"]))


def test_lightly_dclw(lightly: Any) -> None:
    """Same temperature and sigma; the weights carry no gradient."""
    peer = lightly.DCLWLoss(temperature=0.3, sigma=0.5)
    check({"name": "dclw", "temperature": 0.3, "sigma": 0.5}, draw(), lambda v: peer(v["anchor"], v["positive"]))


def test_lightly_macl(lightly: Any) -> None:
    """Same three constants. It adds an epsilon to 1 - P, which is why the loss is only equal to about 1e-7."""
    peer = lightly.MACLLoss(temperature=0.3, alpha=0.5, A_0=0.1)
    check(
        {"name": "macl", "temperature": 0.3, "alpha": 0.5, "offset": 0.1},
        draw(),
        lambda v: peer(v["anchor"], v["positive"]),
    )


def test_lightly_barlow_twins(lightly: Any) -> None:
    """Same weight of the off-diagonal (its default is 5e-3, the paper's code has 0.0051); BatchNorm's eps 1e-5."""
    peer = lightly.BarlowTwinsLoss(lambda_param=5e-3)
    check(
        {"name": "barlow-twins", "off_diagonal": 5e-3, "eps": 1e-5}, draw(), lambda v: peer(v["anchor"], v["positive"])
    )


def test_lightly_vicreg(lightly: Any) -> None:
    """Same weights; both halve the variance term, as the paper's code (solo-learn does not)."""
    peer = lightly.VICRegLoss(lambda_param=25.0, mu_param=20.0, nu_param=2.0)
    config = {"name": "vicreg", "invariance": 25.0, "variance": 20.0, "covariance": 2.0}
    check(config, draw(), lambda v: peer(v["anchor"], v["positive"]))


def test_lightly_w_mse(lightly: Any) -> None:
    """One sub-batch of all rows, so that its random order does not matter; same eps."""
    peer = lightly.WMSELoss(embedding_dim=3, eps=1e-4, w_size=8, track_running_stats=False).double()
    check({"name": "w-mse", "eps": 1e-4}, draw(dim=3), lambda v: peer(torch.cat([v["anchor"], v["positive"]])))


def test_lightly_swav(lightly: Any) -> None:
    """Same temperature, epsilon and rounds; it takes scores of unit vectors with unit prototypes."""
    peer = lightly.SwaVLoss(temperature=0.2, sinkhorn_iterations=3, sinkhorn_epsilon=0.1)
    prototypes: list[Tensor] = []

    def scores(v: Vectors) -> Tensor:
        views = [unit(v[name]) @ unit(prototypes[0]).T for name in ("anchor", "positive", "view3")]
        return peer(views[:2], views[2:]).squeeze()  # it has shape (1,)

    check(
        {"name": "swav", "prototypes": 4, "temperature": 0.2, "epsilon": 0.1, "iterations": 3},
        draw(count=3),
        scores,
        prepare=lambda objective: prototypes.append(objective.prototypes.detach().clone()),
    )


def test_lightly_negative_cosine(lightly: Any) -> None:
    """SimSiam is half the sum of both directions; our predictor makes its predictions."""
    peer = lightly.NegativeCosineSimilarity()
    found: list[nn.Module] = []

    def both(v: Vectors) -> Tensor:
        p1, p2 = found[0](v["anchor"]), found[0](v["positive"])
        return 0.5 * (peer(p1, v["positive"].detach()) + peer(p2, v["anchor"].detach()))

    check({"name": "simsiam", "hidden": 4}, draw(), both, prepare=lambda objective: found.append(objective.predictor))


# ---------------------------------------------------------------------------------------------- pytorch-metric-learning


@pytest.fixture(scope="module")
def metric_learning() -> Any:
    """Its losses."""
    return pytest.importorskip(
        "pytorch_metric_learning.losses", reason="needs pytorch-metric-learning (development extra)"
    )


def flat(v: Vectors, *names: str) -> Tensor:
    """Views one after another."""
    return torch.cat([v[name] for name in names])


def test_metric_learning_ntxent(metric_learning: Any) -> None:
    """Same temperature; one label per row makes its positive pairs our two views; mean over the 2B pairs."""
    peer = metric_learning.NTXentLoss(temperature=0.3)
    label = torch.arange(8).repeat(2)
    check({"name": "ntxent", "temperature": 0.3}, draw(), lambda v: peer(flat(v, "anchor", "positive"), label))


def test_metric_learning_supcon(metric_learning: Any) -> None:
    """It has no factor temperature / base temperature, so base is the temperature here; labels over both views."""
    peer = metric_learning.SupConLoss(temperature=0.3)
    label = torch.tensor([0, 1, 0, 2, 1, 0, 3, 3])
    check(
        {"name": "supcon", "temperature": 0.3, "base_temperature": 0.3},
        draw(),
        lambda v: peer(flat(v, "anchor", "positive"), label.repeat(2)),
        label=label,
    )


def test_metric_learning_supcon_without_positives(metric_learning: Any) -> None:
    """One view of each row: it leaves anchors without a positive out of the mean, which is our ``average: positive``.

    The paper's code counts them as zero, which is our default; the two differ by the share of such anchors.
    """
    peer = metric_learning.SupConLoss(temperature=0.3)
    label = torch.tensor([0, 1, 0, 2, 1, 0, 3, 4])  # rows 3, 6 and 7 are alone
    config = {"name": "supcon", "temperature": 0.3, "base_temperature": 0.3}
    vectors = draw(count=1)
    check({**config, "average": "positive"}, vectors, lambda v: peer(v["anchor"], label), label=label)
    check(config, vectors, lambda v: peer(v["anchor"], label), factor=5 / 8, label=label)


def test_metric_learning_vicreg(metric_learning: Any) -> None:
    """Its variance term is the mean over both views too; weights by the names of the paper."""
    peer = metric_learning.VICRegLoss(invariance_lambda=25, variance_mu=25, covariance_v=1, eps=1e-4)
    check({"name": "vicreg"}, draw(), lambda v: peer(v["anchor"], ref_emb=v["positive"]))


# ---------------------------------------------------------------------------------------------- open_clip


@pytest.fixture(scope="module")
def open_clip() -> Any:
    """Its losses."""
    return pytest.importorskip("open_clip.loss", reason="needs open_clip_torch (extra clip)")


def test_open_clip_clip(open_clip: Any) -> None:
    """It takes unit vectors and exp(theta); half the sum of both directions in both."""
    scale = torch.tensor(1 / 0.07, dtype=torch.float64, requires_grad=True)
    peer = open_clip.ClipLoss()
    check(
        {"name": "clip", "temperature": 0.07},
        draw(),
        lambda v: peer(unit(v["anchor"]), unit(v["positive"]), scale),
    )


def test_open_clip_siglip(open_clip: Any) -> None:
    """Scale exp(theta) = 1 / temperature; sum over pairs divided by B in both."""
    peer = open_clip.SigLipLoss()
    scale, bias = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    check(
        {"name": "siglip", "temperature": 0.1, "bias": -3.0},
        draw(),
        lambda v: peer(unit(v["anchor"]), unit(v["positive"]), scale, bias),
    )


def test_open_clip_distillation(open_clip: Any) -> None:
    """Its two terms added; the teacher's scale is the inverse of our teacher_temperature."""
    vectors = draw()
    torch.manual_seed(9)
    guide = {name: torch.randn(8, 5, dtype=torch.float64) for name in vectors}
    scale, teacher = torch.tensor(20.0, dtype=torch.float64), torch.tensor(50.0, dtype=torch.float64)
    taught = [unit(guide[name]) for name in ("anchor", "positive")]
    peer = open_clip.DistillClipLoss()
    check(
        {"name": "distill-clip", "temperature": 0.05, "teacher_temperature": 0.02},
        vectors,
        lambda v: sum(peer(unit(v["anchor"]), unit(v["positive"]), scale, *taught, teacher)),
        guide=guide,
    )


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_open_clip_gradient_of_scale_and_bias(open_clip: Any, name: str) -> None:
    """d loss / d theta = scale times d loss / d scale, which is what it differentiates by."""
    vectors = draw()
    objective = build({"name": name, "temperature": 0.1}).double()
    objective(vectors, ObjectiveBatch.of(vectors)).loss.backward()
    ours = {key: float(parameter.grad) for key, parameter in objective.named_parameters()}
    scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    a, p = unit(vectors["anchor"]), unit(vectors["positive"])
    if name == "clip":
        open_clip.ClipLoss()(a, p, scale).backward()
    else:
        open_clip.SigLipLoss()(a, p, scale, bias).backward()
        assert ours["scale.bias"] == pytest.approx(float(bias.grad), rel=LIMIT)
    assert ours["scale.log_scale"] == pytest.approx(10.0 * float(scale.grad), rel=LIMIT)


# ---------------------------------------------------------------------------------------------- sentence-transformers


class Echo(nn.Module):
    """Stands for a SentenceTransformer: features are the embeddings already."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same features."""
        return dict(features)

    def get_embedding_dimension(self) -> int:
        """The size of what `draw` makes."""
        return 6


@pytest.fixture(scope="module")
def sentence_transformers() -> Any:
    """Its losses."""
    return pytest.importorskip("sentence_transformers.losses", reason="needs sentence-transformers (extra st)")


def columns(v: Vectors, size: int = 8) -> list[dict[str, Tensor]]:
    """Its inputs: anchors, positives, then column k of the hard negatives of each row."""
    texts = [v["anchor"], v["positive"]]
    if "negatives" in v:
        texts += list(v["negatives"].view(size, -1, v["anchor"].shape[1]).unbind(1))
    return [{"sentence_embedding": z} for z in texts]


@pytest.mark.parametrize("hard", [0, 1, 3])
def test_st_multiple_negatives_ranking(sentence_transformers: Any, hard: int) -> None:
    """scale = 1 / temperature; all hard negatives of the batch are candidates of every anchor."""
    peer = sentence_transformers.MultipleNegativesRankingLoss(Echo(), scale=20.0)
    check({"name": "infonce", "temperature": 0.05}, draw(hard=hard), lambda v: peer(columns(v), None))


def test_st_symmetric_ranking(sentence_transformers: Any) -> None:
    """scale = 1 / temperature; mean of rows and columns: CLIP's directions with a fixed scale."""
    peer = sentence_transformers.MultipleNegativesSymmetricRankingLoss(Echo(), scale=20.0)
    check(
        {"name": "infonce", "temperature": 0.05, "direction": "both"},
        draw(),
        lambda v: peer(columns(v), None),
    )


def test_st_cosent(sentence_transformers: Any) -> None:
    """Same scale."""
    peer = sentence_transformers.CoSENTLoss(Echo(), scale=20.0)
    score = torch.tensor([0.1, 0.9, 0.4, 0.4, 0.0, 1.0, 0.7, 0.2], dtype=torch.float64)
    check({"name": "cosent"}, draw(), lambda v: peer(columns(v), score), score=score)


def test_st_angle(sentence_transformers: Any) -> None:
    """Same scale; the angle term alone in both."""
    peer = sentence_transformers.AnglELoss(Echo(), scale=20.0)
    score = torch.tensor([0.1, 0.9, 0.4, 0.4, 0.0, 1.0, 0.7, 0.2], dtype=torch.float64)
    check({"name": "angle"}, draw(), lambda v: peer(columns(v), score), score=score)


def test_st_cosine_similarity(sentence_transformers: Any) -> None:
    """Mean square of cosine less score in both."""
    peer = sentence_transformers.CosineSimilarityLoss(Echo())
    score = torch.linspace(-0.5, 1, 8, dtype=torch.float64)
    check({"name": "cosine-mse"}, draw(), lambda v: peer(columns(v), score), score=score)


def test_st_margin_mse(sentence_transformers: Any) -> None:
    """Dot products; its labels are the teacher's margins, our scores."""
    peer = sentence_transformers.MarginMSELoss(Echo())
    margin = torch.linspace(-2, 3, 8, dtype=torch.float64)
    check({"name": "margin-mse"}, draw(hard=1), lambda v: peer(columns(v), margin), score=margin)


RATINGS = torch.linspace(-3, 4, 24, dtype=torch.float64).roll(5).view(8, 3)
"""A teacher's score of the positive and of two negatives of each row."""


def rated() -> dict[str, Tensor]:
    """The same for our batch: by name, negatives row after row."""
    return {"positive": RATINGS[:, 0], "negatives": RATINGS[:, 1:].flatten()}


def test_st_margin_mse_with_a_score_of_each_candidate(sentence_transformers: Any) -> None:
    """Dot products; its labels are the list of scores, positive first."""
    peer = sentence_transformers.MarginMSELoss(Echo())
    check({"name": "margin-mse"}, draw(hard=2), lambda v: peer(columns(v), RATINGS), scores=rated())


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_st_distill_kl_with_a_score_of_each_candidate(sentence_transformers: Any, temperature: float) -> None:
    """Candidates of a row are its own, dot products, times T squared, in both."""
    peer = sentence_transformers.DistillKLDivLoss(Echo(), temperature=temperature)
    own = {"similarity": "dot", "temperature": temperature, "teacher_temperature": temperature}
    check({"name": "distill-kl", **own}, draw(hard=2), lambda v: peer(columns(v), RATINGS), scores=rated())


def test_st_embedding_mse(sentence_transformers: Any) -> None:
    """Mean over all numbers in both; its label is the teacher's vector."""
    peer = sentence_transformers.MSELoss(Echo())
    vectors = draw(count=1)
    target = torch.flip(vectors["anchor"], [0])
    check(
        {"name": "embedding-mse"},
        vectors,
        lambda v: peer([{"sentence_embedding": v["anchor"]}], target),
        guide={"anchor": target},
    )


def test_st_distill_kl(sentence_transformers: Any) -> None:
    """Its candidates are those of one row, ours those of the batch: equal for one row. It multiplies by T squared."""
    t = 0.5
    peer = sentence_transformers.DistillKLDivLoss(Echo(), temperature=t)
    vectors = draw(size=1, hard=3)
    torch.manual_seed(9)
    teacher = {name: torch.randn_like(z) for name, z in vectors.items()}
    scores = [unit(teacher["anchor"]) @ unit(z).T for z in (teacher["positive"], teacher["negatives"])]
    check(
        {"name": "distill-kl", "temperature": t, "teacher_temperature": t},
        vectors,
        lambda v: peer(columns({name: unit(z) for name, z in v.items()}, size=1), torch.cat(scores, dim=1)),
        factor=1 / t**2,
        guide=teacher,
    )


def test_st_matryoshka(sentence_transformers: Any) -> None:
    """Weighted sum over prefixes of the loss on them; cosines normalise each prefix again in both."""
    inner = sentence_transformers.MultipleNegativesRankingLoss(Echo(), scale=20.0)
    peer = sentence_transformers.MatryoshkaLoss(
        inner.model, inner, matryoshka_dims=[6, 4, 2], matryoshka_weights=[1, 0.5, 2]
    )
    check(
        {
            "name": "matryoshka",
            "dims": [6, 4, 2],
            "weights": [1, 0.5, 2],
            "objective": {"name": "infonce", "temperature": 0.05},
        },
        draw(hard=1),
        lambda v: peer(columns(v), None),
    )


@pytest.mark.parametrize("sizes", [[6], [6, 3]])
def test_st_matryoshka_without_cosines(sentence_transformers: Any, sizes: list[int]) -> None:
    """Theirs scales every prefix to length one, the whole vector too, where nothing is cut; ours where it is asked to,
    and otherwise the whole vector has the loss of the objective alone."""
    loss = sentence_transformers.MultipleNegativesRankingLoss
    inner = loss(Echo(), scale=1.0, similarity_fct=lambda a, b: a @ b.T)
    alone = {"name": "infonce", "temperature": 1.0, "score": "dot"}
    wrapper = {"name": "matryoshka", "dims": sizes, "objective": alone}
    theirs = sentence_transformers.MatryoshkaLoss(inner.model, inner, matryoshka_dims=sizes)
    check({**wrapper, "normalize": True}, draw(), lambda v: theirs(columns(v), None))
    plain = loss(Echo(), scale=1.0, similarity_fct=lambda a, b: a @ b.T)
    check({**wrapper, "dims": [6]}, draw(), lambda v: plain(columns(v), None))
    with pytest.raises(AssertionError):
        check({**wrapper, "dims": [6]}, draw(), lambda v: theirs(columns(v), None))


class Column(nn.Module):
    """A model whose vectors are one of the columns it is given."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, features: Vectors) -> Vectors:
        return {"sentence_embedding": features[self.name]}


def test_st_contrastive_tension(sentence_transformers: Any) -> None:
    """The sum over given pairs; ours over those that it draws, each anchor with itself and three others."""
    peer = sentence_transformers.ContrastiveTensionLoss(Echo())
    config = {"name": "contrastive-tension", "negatives": 3}

    def pairs(v: Vectors) -> Tensor:
        others = build(config).others(ObjectiveBatch.of(v))  # (B, 3)
        second = torch.cat([torch.arange(len(others))[:, None], others], dim=1).flatten()
        first = torch.arange(len(others)).repeat_interleave(4)
        texts = ({"sentence_embedding": v["anchor"][first]}, {"sentence_embedding": v["positive"][second]})
        return peer(texts, (first == second).double())

    check(config, draw(), pairs)


def test_st_contrastive_tension_in_batch(sentence_transformers: Any) -> None:
    """Both directions, learned scale of 20 at the start, without a bound: clip."""
    peer = sentence_transformers.ContrastiveTensionLossInBatchNegatives(Echo(), scale=20.0).double()
    peer.model1, peer.model2 = Column("anchor"), Column("positive")
    check({"name": "clip", "temperature": 0.05, "max_scale": None}, draw(), lambda v: peer([v], None))


def test_peers_are_not_compared_with_zero() -> None:
    """The comparison fails when it should."""
    with pytest.raises(AssertionError):
        check({"name": "infonce"}, draw(), lambda v: v["anchor"].sum() * np.pi)
