"""Triplets, GIST, joint directions, hardness and their kin against sentence-transformers and pytorch-metric-learning.

Within 1e-9 relative, loss and gradient, fp64. Where a peer differs from ours on purpose, the test says how.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedkit.objectives import build
from embedkit.objectives.base import ObjectiveBatch
from tests.objectives import test_peers as peers
from tests.objectives.test_peers import Echo, Vectors, columns, draw

LABEL = torch.tensor([0, 1, 0, 2, 1, 0, 2, 1])
SIZE = 8


@pytest.fixture(scope="module")
def st() -> Any:
    """Losses of sentence-transformers."""
    return pytest.importorskip("sentence_transformers.losses", reason="needs sentence-transformers (extra st)")


@pytest.fixture(scope="module")
def pml() -> Any:
    """pytorch-metric-learning."""
    reason = "needs pytorch-metric-learning (development extra)"
    return SimpleNamespace(losses=pytest.importorskip("pytorch_metric_learning.losses", reason=reason),
                           miners=pytest.importorskip("pytorch_metric_learning.miners", reason=reason))  # fmt: skip


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As near as fp64 allows."""
    monkeypatch.setattr(peers, "LIMIT", 1e-9)


check = peers.check


# ---------------------------------------------------------------------------------------------- sentence-transformers


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_st_triplet(st: Any, distance: str) -> None:
    """Given triplets; our cosine margin is the one of 1 - cosine."""
    metric = {"euclidean": st.TripletDistanceMetric.EUCLIDEAN, "cosine": st.TripletDistanceMetric.COSINE}[distance]
    peer = st.TripletLoss(Echo(), distance_metric=metric, triplet_margin=0.7)
    own = {"score": "cosine"} if distance == "cosine" else {}
    if distance == "euclidean":  # torch's distance adds 1e-6 to each difference
        peers.LIMIT = 1e-5
    check({"name": "triplet", "margin": 0.7, **own}, draw(hard=1), lambda v: peer(columns(v), None))


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("batch-all-triplet", "BatchAllTripletLoss"),
        ("batch-hard-triplet", "BatchHardTripletLoss"),
        ("soft-margin-triplet", "BatchHardSoftMarginTripletLoss"),
        ("semi-hard-triplet", "BatchSemiHardTripletLoss"),
    ],
)
def test_st_triplets_by_label(st: Any, name: str, loss: str, distance: str) -> None:
    """Its labels are ours, one vector a row; anchors all have a positive here (its hard loss has d_p = 0 without)."""
    metric = getattr(st.BatchHardTripletLossDistanceFunction, f"{distance}_distance")
    soft = name.startswith("soft")
    peer = getattr(st, loss)(Echo(), distance_metric=metric, **({} if soft else {"margin": 0.7}))
    own: dict[str, Any] = {} if soft else {"margin": 0.7}
    own |= {"score": "cosine"} if distance == "cosine" else {}
    check({"name": name, **own}, draw(count=1), lambda v: peer(one_column(v), LABEL), label=LABEL)


def one_column(v: Vectors) -> list[dict[str, Tensor]]:
    """Its input where every row is one text."""
    return [{"sentence_embedding": v["anchor"]}]


@pytest.mark.parametrize("online", [False, True])
def test_st_contrastive(st: Any, online: bool) -> None:
    """Cosine distance, labels 0 and 1: the mean, or the sum over its hard pairs."""
    peer = (st.OnlineContrastiveLoss if online else st.ContrastiveLoss)(Echo(), margin=0.8)
    score = torch.tensor([1, 0, 1, 0, 0, 1, 1, 0], dtype=torch.float64)
    name = "online-contrastive" if online else "contrastive"
    check({"name": name, "margin": 0.8}, draw(), lambda v: peer(columns(v), score), score=score)


def test_st_online_contrastive_with_one_kind_of_pair(st: Any) -> None:
    """The mean of the kind that is there takes the place of the other."""
    peer = st.OnlineContrastiveLoss(Echo(), margin=0.8)
    score = torch.ones(SIZE, dtype=torch.float64)
    check({"name": "online-contrastive", "margin": 0.8}, draw(), lambda v: peer(columns(v), score), score=score)


ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


@pytest.mark.parametrize("hard", [0, 1, 3])
def test_st_joint_directions(st: Any, hard: int) -> None:
    """GTE's four directions in one softmax."""
    peer = st.MultipleNegativesRankingLoss(Echo(), scale=10.0, directions=ALL, partition_mode="joint")
    check({"name": "gte", "temperature": 0.1}, draw(hard=hard), lambda v: peer(columns(v), None))


@pytest.mark.parametrize(
    ("directions", "settings"),
    [
        (ALL[:2], {"contrast_positives": False, "contrast_back": False}),
        (("query_to_doc", "doc_to_query"), {"contrast_positives": False, "contrast_anchors": False}),
        (("query_to_doc", "doc_to_doc"), {"contrast_back": False, "contrast_anchors": False}),
    ],
)
def test_st_some_joint_directions(st: Any, directions: tuple[str, ...], settings: dict[str, Any]) -> None:
    """Each direction can be left out."""
    peer = st.MultipleNegativesRankingLoss(Echo(), scale=10.0, directions=directions, partition_mode="joint")
    check({"name": "gte", "temperature": 0.1, **settings}, draw(hard=2), lambda v: peer(columns(v), None))


@pytest.mark.parametrize("hard", [0, 2])
@pytest.mark.parametrize(("theirs", "ours"), [("in_batch_negatives", "in-batch"), ("hard_negatives", "own"),
                                              ("all_negatives", "all")])  # fmt: skip
def test_st_hardness(st: Any, theirs: str, ours: str, hard: int) -> None:
    """Same strength; the penalty is not divided by the temperature in either."""
    if ours == "own" and not hard:
        pytest.skip("there is nothing that it weighs: ours asks for negatives")
    peer = st.MultipleNegativesRankingLoss(Echo(), scale=10.0, hardness_mode=theirs, hardness_strength=5.0)
    config = {"name": "llave", "temperature": 0.1, "strength": 5.0, "harder": ours}
    check(config, draw(hard=hard), lambda v: peer(columns(v), None))


class Teacher(Echo):
    """A guide whose vectors are given, one column after another."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__()
        self.columns = [c["sentence_embedding"] for c in columns(vectors)]
        self.calls = 0

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The next column."""
        self.calls += 1
        return {"sentence_embedding": self.columns[(self.calls - 1) % len(self.columns)]}


def guided(st: Any, vectors: Vectors, teacher: Vectors, **settings: Any) -> Any:
    """GISTEmbedLoss, made without models: only its arithmetic is run."""
    peer = st.GISTEmbedLoss.__new__(st.GISTEmbedLoss)
    nn.Module.__init__(peer)
    peer.model, peer.guide, peer.must_retokenize = Echo(), Teacher(teacher), False
    peer.similarity_fct, peer.gather_across_devices = nn.CosineSimilarity(dim=-1), False
    peer.cross_entropy_loss = nn.CrossEntropyLoss()
    settings = {"margin_strategy": "absolute", "margin": 0.0, "contrast_anchors": True, "contrast_positives": True,
                "temperature": 0.1, **settings}  # fmt: skip
    for name, value in settings.items():
        setattr(peer, name, value)
    return lambda v: peer(columns(v), None)


@pytest.mark.parametrize("hard", [0, 1])
@pytest.mark.parametrize("strategy", ["absolute", "relative"])
@pytest.mark.parametrize("margin", [0.0, 0.2])
@pytest.mark.parametrize("contrast", [True, False])
def test_st_gist(st: Any, hard: int, strategy: str, margin: float, contrast: bool) -> None:
    """margin_strategy, contrast_anchors and contrast_positives; at most one hard negative a row there."""
    torch.manual_seed(4)
    vectors = draw(hard=hard)
    teacher = {name: z + torch.randn_like(z) for name, z in vectors.items()}
    name = "guide_margin" if strategy == "absolute" else "guide_relative_margin"
    config = {"name": "gist", "temperature": 0.1, "guide_margin": None, name: margin, "contrast_anchors": contrast,
              "contrast_positives": contrast}  # fmt: skip
    peer = guided(st, vectors, teacher, margin_strategy=strategy, margin=margin, contrast_anchors=contrast,
                  contrast_positives=contrast)  # fmt: skip
    check(config, vectors, peer, guide=teacher)


def test_gist_without_its_own_kinds_is_infonce_with_the_mask() -> None:
    vectors = draw(hard=2)
    batch = ObjectiveBatch.of(vectors, guide={name: z.flip(1) for name, z in vectors.items()})
    gist = build({"name": "gist", "contrast_anchors": False, "contrast_positives": False, "temperature": 0.05})
    plain = build({"name": "infonce", "guide_margin": 0.0})
    torch.testing.assert_close(gist(vectors, batch).loss, plain(vectors, batch).loss, rtol=1e-12, atol=0)


# ---------------------------------------------------------------------------------------------- pytorch-metric-learning


@pytest.mark.parametrize("soft", [False, True])
def test_pml_triplet(pml: Any, soft: bool) -> None:
    """All triplets, distances of unit vectors; it averages over those that cost something."""
    peer = pml.losses.TripletMarginLoss(margin=0.2, smooth_loss=soft)
    config = {"name": "batch-all-triplet", "margin": 0.2, "normalize": True, "soft": soft}
    check(config, draw(count=1), lambda v: peer(v["anchor"], LABEL), label=LABEL)


def test_pml_batch_hard_triplet(pml: Any) -> None:
    """Its miner and its loss; the mean over triplets that cost something."""
    peer, miner = pml.losses.TripletMarginLoss(margin=0.2), pml.miners.BatchHardMiner()
    config = {"name": "batch-hard-triplet", "margin": 0.2, "normalize": True, "average": "active"}
    mined = lambda v: peer(v["anchor"], LABEL, miner(v["anchor"], LABEL))  # noqa: E731
    check(config, draw(count=1), mined, label=LABEL)


@pytest.mark.parametrize("epsilon", [None, 0.1])
@pytest.mark.parametrize("alone", [False, True])
def test_pml_multi_similarity(pml: Any, epsilon: float | None, alone: bool) -> None:
    """Same constants, with and without its miner; an anchor without a positive still has its negatives."""
    label = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1]) if alone else LABEL
    peer = pml.losses.MultiSimilarityLoss(alpha=2, beta=20, base=0.5)
    miner = None if epsilon is None else pml.miners.MultiSimilarityMiner(epsilon=epsilon)

    def loss(v: Vectors) -> Tensor:
        return peer(v["anchor"], label, None if miner is None else miner(v["anchor"], label))

    check({"name": "multi-similarity", "beta": 20.0, "epsilon": epsilon}, draw(count=1), loss, label=label)


def test_pml_circle(pml: Any) -> None:
    """gamma = 1 / temperature; both average over anchors with a positive and a negative."""
    peer = pml.losses.CircleLoss(m=0.4, gamma=20)
    check({"name": "circle", "temperature": 1 / 20}, draw(count=1), lambda v: peer(v["anchor"], LABEL), label=LABEL)


@pytest.mark.parametrize("label", [[0] * SIZE, list(range(SIZE))])
@pytest.mark.parametrize(
    "name", ["batch-all-triplet", "batch-hard-triplet", "semi-hard-triplet", "soft-margin-triplet", "circle"]
)
def test_a_batch_without_a_triplet_costs_nothing(name: str, label: list[int]) -> None:
    """Theirs let the text itself step in: findings/st_triplet_losses_without_a_counterpart.sh."""
    vectors = {"anchor": draw(count=1)["anchor"].requires_grad_()}
    loss = build(name)(vectors, ObjectiveBatch.of(vectors, label=torch.tensor(label))).loss
    (gradient,) = torch.autograd.grad(loss, vectors["anchor"])
    assert float(loss.detach()) == 0.0 and not bool(gradient.any())


# ---------------------------------------------------------------------------------------------- classes


def proxied(loss: Any, settings: dict[str, Any], peer: Any, weight: str, count: int = 1) -> None:
    """Our proxies take the values of the peer's weights; labels of one view."""
    peer = peer.double()
    values = peer.state_dict()[weight]
    values = values if len(values) != 6 else values.T  # some hold them as columns

    def prepare(objective: nn.Module) -> None:
        with torch.no_grad():
            objective.proxies.copy_(values)

    config = {"name": loss, "classes": 3, **settings}
    check(config, draw(count=1), lambda v: peer(v["anchor"], LABEL), prepare=prepare, label=LABEL)


def test_pml_proxy_anchor(pml: Any) -> None:
    """Same margin and alpha; both halve nothing."""
    proxied("proxy-anchor", {}, pml.losses.ProxyAnchorLoss(3, 6, margin=0.1, alpha=32), "proxies")


def test_pml_proxy_nca(pml: Any) -> None:
    """It leaves the own proxy in the denominator, as ProxyNCA++ does and the paper does not: our ``own: true``."""
    proxied("proxy-nca", {"own": True, "scale": 3.0}, pml.losses.ProxyNCALoss(3, 6, softmax_scale=3.0), "proxies")
    with pytest.raises(AssertionError):
        proxied("proxy-nca", {"scale": 3.0}, pml.losses.ProxyNCALoss(3, 6, softmax_scale=3.0), "proxies")


def test_pml_arcface(pml: Any) -> None:
    """Its margin is in degrees; its cosine is that of acos, ours of the sum of angles."""
    peer = pml.losses.ArcFaceLoss(3, 6, margin=math.degrees(0.4), scale=10.0)
    proxied("arcface", {"margin": 0.4, "scale": 10.0}, peer, "W")


def test_pml_cosface(pml: Any) -> None:
    """Same margin and scale."""
    proxied("cosface", {"scale": 10.0}, pml.losses.CosFaceLoss(3, 6, margin=0.35, scale=10.0), "W")


def test_pml_soft_triple(pml: Any) -> None:
    """It has not the paper's distance of centres: our ``merge: 0``."""
    peer = pml.losses.SoftTripleLoss(3, 6, centers_per_class=4, la=20, gamma=0.1, margin=0.01)
    proxied("soft-triple", {"centres": 4, "merge": 0.0}, peer, "fc")


@pytest.mark.parametrize("bins", [4, 10])
def test_pml_fast_ap(pml: Any, bins: int) -> None:
    """Squared distances from 0 to 4; anchors without another of their label are left out in both."""
    peer, label = pml.losses.FastAPLoss(num_bins=bins), torch.tensor([0, 1, 0, 2, 1, 0, 3, 1])
    check({"name": "fast-ap", "bins": bins}, draw(count=1), lambda v: peer(v["anchor"], label), label=label)
