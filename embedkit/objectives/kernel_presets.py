"""Members of the similarity matrix kernel: published objectives as settings of its slots.

Section numbers and tags in notes are those of the reference that the project was built from: [M] from memory, [R] a
reconstruction where the paper's own formula was not at hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from embedkit.errors import RecipeError
from embedkit.objectives.base import LossOutput, NegativeCount, Objective, ObjectiveBatch
from embedkit.objectives.compose.wrappers import WeightedSum
from embedkit.objectives.kernel import table_preset
from embedkit.objectives.matrix.similarity import check_roles
from embedkit.objectives.parts import mixtures  # noqa: F401
from embedkit.objectives.parts import soft_targets as divergence  # noqa: F401  (they file parts)
from embedkit.objectives.registry import build, objective
from embedkit.objectives.tools import number, prepare, unit, whole

QUEUE = {"state": "queue of Q keys", "cost": "B (B + Q) D"}

# One positive, softmax over the batch.
table_preset("table", paper="free composition of the slots")
table_preset("infonce", paper="van den Oord et al. 2018 (arXiv 1807.03748); hard negatives: Gao et al. 2021, SimCSE")
table_preset("ntxent", paper="Chen et al. 2020, SimCLR (arXiv 2002.05709)", direction="views", temperature=0.1,
             note="the paper's code adds the two views: combine: sum")  # fmt: skip
table_preset("clip", paper="Radford et al. 2021 (arXiv 2103.00020)", scale="learnable", direction="both")
table_preset("siglip", paper="Zhai et al. 2023 (arXiv 2303.15343)", scale="learnable", temperature=0.1, bias=-10.0,
             max_scale=None, reducer="sigmoid")  # fmt: skip
table_preset("focal-infonce", paper="Hou and Li 2023; focal image-text contrast, arXiv 2304.00719", focal=1.0,
             note="[R] (1 - p)^focal on each term; the papers' own formulas are not verified")  # fmt: skip
table_preset("label-smoothing", paper="Szegedy et al. 2016, on the similarity matrix", smoothing=0.1)

table_preset("clhaif", paper="Cheng et al. 2023, Findings of ACL, Improving Contrastive Learning of Sentence "
             "Embeddings from AI Feedback", by_score="positive",
             note="the authors' smooth_positive; by_score: all is smooth_all")  # fmt: skip

# Labels.
table_preset("supcon", paper="Khosla et al. 2020 (arXiv 2004.11362), L_out", direction="views", temperature=0.07,
             base_temperature=0.07, by="label", others=1.0)  # fmt: skip
table_preset("supcon-in", paper="Khosla et al. 2020 (arXiv 2004.11362), L_in", direction="views", temperature=0.07,
             base_temperature=0.07, by="label", reducer="in", others=1.0, note="[M] L_in from memory")  # fmt: skip
table_preset("core-tuning", paper="Zhang et al. 2021, NeurIPS, Unleashing the Power of Contrastive Self-Supervised "
             "Visual Models via Contrast-Regularized Fine-Tuning", direction="views", temperature=0.07,
             base_temperature=0.07, by="label", others=1.0, bank="hard-pairs", focal=1.0,
             note="[M] mixed pairs and focal weight from memory; the law of the shares is ours")  # fmt: skip
table_preset("supcon-relu", paper="Kini et al., ICLR 2024", direction="views", temperature=0.07, base_temperature=0.07,
             by="label", others=1.0, relu=True)  # fmt: skip

table_preset("csd", paper="Barletti et al. 2022, ICIAP, Contrastive Supervised Distillation for Continual "
             "Representation Learning", direction="with-guide", temperature=0.07, base_temperature=0.07, by="label",
             others=1.0,
             note="keys: guide is the paper's formula, keys: both (the default) its code")  # fmt: skip

# Negatives that weigh differently, or are partly positives.
table_preset("debiased", paper="Chuang et al. 2020 (arXiv 2007.00224)", direction="views", temperature=0.5,
             prior="debiased", class_prior=0.1)  # fmt: skip
table_preset("hcl", paper="Robinson et al. 2021 (arXiv 2010.04592)", direction="views", temperature=0.5,
             weight="exponential", beta=1.0, prior="debiased", class_prior=0.1)  # fmt: skip
table_preset("hn-nce", paper="Radenovic et al. 2023, DiHT (arXiv 2301.02280)", direction="both", temperature=0.05,
             weight="exponential", beta=0.25, note="[M] DiHT's own alpha (own) and beta are not verified")  # fmt: skip
table_preset("dhn-nce", paper="Koleilat et al. 2024, MedCLIP-SAM", direction="both", temperature=0.6,
             weight="exponential", beta=0.15, own=0.0)  # fmt: skip
table_preset("dcl", paper="Yeh et al. 2022 (arXiv 2110.06848)", direction="views", temperature=0.1, own=0.0)
table_preset("dclw", paper="Yeh et al. 2022 (arXiv 2110.06848), section 3.3", direction="views", temperature=0.1,
             own=0.0, positive="von-mises")  # fmt: skip
table_preset("macl", paper="Huang et al., ICML 2023", direction="views", scale="aligned", temperature=0.1,
             reweight=True)  # fmt: skip
table_preset("am-ntxent", paper="Lepage and Dehak, sslsv; additive margin", direction="views", temperature=0.03,
             positive="additive-margin", margin=0.1)  # fmt: skip
table_preset("aam-ntxent", paper="Lepage and Dehak, sslsv; additive angular margin", direction="views",
             temperature=0.03, positive="angular-margin", margin=0.1)  # fmt: skip
table_preset("simo", paper="Lepage and Dehak, sslsv; margin as a number of negatives", direction="views",
             temperature=0.03, positive="simo")  # fmt: skip

# Banks.
table_preset("moco", paper="He et al. 2020 (arXiv 1911.05722); v2 constants, Chen et al. 2020", detach=True,
             temperature=0.2, bank="queue", **QUEUE,
             note="keys: guide takes the positives of a running mean of the encoder")  # fmt: skip
table_preset("sumoco", paper="supervised momentum contrast: Khosla et al. 2020 over the queue of He et al. 2020",
             detach=True, temperature=0.07, by="label", others=1.0, bank="queue", **QUEUE,
             note="[R] keys of the anchor's class in batch and queue attract, the queue's others repel")  # fmt: skip
table_preset("moco-filtered", paper="arXiv 2501.16360 (abstract only)", direction="both", detach=True, temperature=0.2,
             bank="filtered-queue", **QUEUE, note="[R] formulas are a reconstruction")  # fmt: skip
table_preset("mochi", paper="Kalantidis et al. 2020 (arXiv 2010.01028)", detach=True, temperature=0.2,
             bank="mixed-queue", **QUEUE, note="[M] constants from memory")  # fmt: skip
table_preset("moco-interpolated", paper="Zhu et al. 2021, ICCV, Improving Contrastive Learning by Visualizing Feature "
             "Transformation, section 4.2", detach=True, temperature=0.2, bank="interpolated-queue", **QUEUE,
             note="in feature-transform with interpolate: null it has both transforms")  # fmt: skip
table_preset("infonce-interpolated", paper="after Zhu et al. 2021, ICCV, section 4.2, with the batch for the queue",
             temperature=0.2, bank="interpolated-batch")  # fmt: skip
table_preset("ascl", paper="Feng and Patras, ICPR 2022", detach=True, temperature=0.1, bank="queue", size=4096,
             target="adaptive", reducer="divergence", form="cross-entropy", **QUEUE)  # fmt: skip
table_preset("mls", paper="arXiv 2308.03286, ICCV 2023 (abstract only)", scale="fixed", temperature=0.1, bias=-5.0,
             bank="queue", size=4096, detach=True, target="nearest", reducer="sigmoid", **QUEUE,
             note="[R] number of neighbours, scale and balance are not verified")  # fmt: skip

# Target distributions over candidates.
table_preset("icon", paper="Alshammari et al., ICLR 2025 (arXiv 2504.16929)", reducer="divergence", direction="views",
             temperature=0.1, note="[M] the paper's leak is about 0.2 to 0.6")  # fmt: skip
table_preset("soft-targets", paper="Hinton et al. 2015, on rows of the similarity matrix", target="guide",
             reducer="divergence")  # fmt: skip
table_preset("distill-clip", paper="Ilharco et al. 2021, open_clip, DistillClipLoss", scale="learnable",
             direction="both", target="own-and-guide", reducer="divergence", form="cross-entropy",
             note="the sum of the contrastive and the distillation term")  # fmt: skip

# Several views.
table_preset("multi-positive", paper="Zhuo et al. 2023, ACL, WhitenedCSE, section 3.3", direction="each",
             note="InfoNCE to each further view apart; combine: mean instead of their sum")  # fmt: skip
table_preset("poly-view-geometric", paper="Shidani et al., ICLR 2024 (arXiv 2403.05490)", direction="views",
             temperature=0.1, note="[M] formula checked against a third-party port only")  # fmt: skip
table_preset("poly-view-arithmetic", paper="Shidani et al., ICLR 2024 (arXiv 2403.05490)", direction="views",
             temperature=0.1, reducer="in", note="[M] formula checked against a third-party port only")  # fmt: skip
table_preset("poly-view-statistics", paper="Shidani et al., ICLR 2024 (arXiv 2403.05490), sufficient statistics",
             direction="views", temperature=0.1, score="rest-mean", target="itself", own_views=True,
             note="[M] formula from memory")  # fmt: skip
table_preset("mv-infonce", paper="Koromilas et al. 2025, multi-view contrastive learning", direction="views",
             temperature=0.5, reducer="merged")  # fmt: skip

# Other scores.
table_preset("kernel-infonce", paper="Tan et al., ICLR 2024 (arXiv 2303.15103)", direction="views", temperature=0.5,
             score="distance", gamma=1.0)  # fmt: skip
table_preset("kernel-concatenation", paper="Tan et al., ICLR 2024 (arXiv 2303.15103), concatenation sum",
             direction="views", temperature=0.5, score="halves")  # fmt: skip
table_preset("mean-shifted", paper="Reiss and Hoshen, AAAI 2023 (arXiv 2106.03844)", direction="views",
             temperature=0.25, score="centred", state="centre")  # fmt: skip
table_preset("hydra", paper="SimLAP, arXiv 2410.18200", direction="views", temperature=0.1, score="gated",
             target="partner", average="positive", note="positives in no denominator but their own")  # fmt: skip
table_preset("cmim", paper="Livne, arXiv 2502.19642", direction="self", temperature=0.1, target="itself", mean=True,
             note="[M] formula unverified; the contrastive term alone, without the decoder's likelihood")  # fmt: skip
table_preset("supremix", paper="Wu et al., SupReMix", direction="views", temperature=0.3, bank="label-mixes",
             weight="target-distance", by="score", others=1.0, average="positive")  # fmt: skip

# State by sample.
table_preset("sogclr", paper="Yuan et al., ICML 2022 (arXiv 2202.12387)", direction="views", temperature=0.1,
             reducer="global", state="mean denominator by row")  # fmt: skip
table_preset("isogclr", paper="Qiu et al., ICML 2023 (arXiv 2305.11965)", direction="views", scale="per-sample",
             reducer="global", state="mean denominator and temperature by row")  # fmt: skip
table_preset("isogclr-two-tower", paper="Qiu et al., ICML 2023 (arXiv 2305.11965), two towers", direction="both",
             scale="per-sample", temperature=0.01, tau_min=0.005, tau_max=0.05, rho=6.0, clip=5.0, reducer="global",
             gamma=0.8, relative=True, state="mean denominator and temperature by row and tower",
             note="divided by the number of negatives, which the authors' two-tower code leaves out")  # fmt: skip


@objective("kernel-mixture", paper="Tan et al., ICLR 2024 (arXiv 2303.15103), simple sum", family="table", splits=True,
           tiled=True, slots="mixture · kernel-infonce(gamma) + (1 - mixture) · kernel-infonce(2)")  # fmt: skip
class KernelMixture(WeightedSum):
    """A weighted sum of two kernel losses.

    Parameters
    ----------
    mixture : float
        Share of the kernel with `gamma`.
    gamma, temperature, temperature2 : float
        Of the two kernels.
    tile : int, str or None
        Rows of the tiles in which the matrices are evaluated, "auto", or None for whole ones.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("kernel-mixture")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    3.4881
    """

    def __init__(self, *, mixture: float = 0.5, gamma: float = 1.0, temperature: float = 0.5, temperature2: float = 0.5,
                 tile: int | str | None = "auto") -> None:  # fmt: skip
        number("mixture", mixture, least=0, most=1)
        common = {"name": "kernel-infonce", "tile": tile}
        super().__init__(terms=[
            {**common, "gamma": gamma, "temperature": temperature, "weight": mixture, "label": "kernel"},
            {**common, "gamma": 2.0, "temperature": temperature2, "weight": 1 - mixture, "label": "gaussian"},
        ])  # fmt: skip


@objective("hallucinator", paper="arXiv 2307.12168, ICCV 2023 (abstract only)", family="wrapper", splits=True,
           slots="any objective, twice", note="experimental; [R] the formula is a reconstruction")  # fmt: skip
class Hallucinator(Objective):
    """An objective, plus the same objective with synthetic positives: moved away from their anchors by a small network.

    The hallucinated positive is unit(MLP(k + l (k - sg(q)))) of unit q, k and l ~ U(0, reach), one number for each row
    and step. Experimental: the paper's formula was not at hand.

    Parameters
    ----------
    objective : mapping or str
        The base objective.
    reach : float
        Largest extrapolation.
    hidden : int
        Width of the layer.
    weight : float
        Factor on the loss of the synthetic positives.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> _ = torch.manual_seed(0)
    >>> loss = build({"name": "hallucinator", "hidden": 2}, dim=2, num_rows=2)(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    20.44
    """

    def __init__(self, *, objective: Any = "infonce", reach: float = 0.5, hidden: int = 512, weight: float = 1.0,
                 dim: int | None = None, num_rows: int | None = None) -> None:  # fmt: skip
        super().__init__()
        self.reach, self.weight = number("reach", reach, above=0), number("weight", weight, above=0)
        hidden = whole("hidden", hidden, least=1)
        self.base = build(objective, dim=dim, num_rows=num_rows)
        self.requires, self.accepts = self.base.requires, self.base.accepts
        self.layer = None if dim is None else nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of the true positives plus that of the synthetic ones."""
        if self.layer is None:
            raise RecipeError("the layer's size is not known", where="objective", remedy="give build(..., dim=)")
        check_roles(self.requires, embeddings, batch)
        z = prepare(embeddings)
        q, k = unit(z["anchor"]), unit(z["positive"])
        far = torch.from_numpy(batch.random("hallucinator").random(len(k))).to(k) * self.reach
        hallucination = unit(self.layer(k + far[:, None] * (k - q.detach())))
        plain, extra = self.base(embeddings, batch), self.base({**embeddings, "positive": hallucination}, batch)
        terms = {"base": plain.loss.detach(), "hallucinated": self.weight * extra.loss.detach()}
        return LossOutput(plain.loss + self.weight * extra.loss, terms, plain.metrics)

    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Update the base's state with the true embeddings."""
        self.base.after_step(embeddings, batch)

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """The negatives of the base objective."""
        return self.base.negatives(batch_size, hard, processes)
