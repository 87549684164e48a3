"""Members of the score table kernel: published objectives as settings of its slots."""

from __future__ import annotations

from embedkit.objectives.kernel import table_preset

table_preset("table", paper="free composition of the slots")
table_preset(
    "infonce", paper="van den Oord et al. 2018 (arXiv 1807.03748); with hard negatives Gao et al. 2021, SimCSE",
)  # fmt: skip
table_preset("ntxent", paper="Chen et al. 2020, SimCLR (arXiv 2002.05709)", direction="views", temperature=0.1)
table_preset("clip", paper="Radford et al. 2021 (arXiv 2103.00020)", scale="learnable", direction="both")
table_preset(
    "siglip", paper="Zhai et al. 2023 (arXiv 2303.15343)", scale="learnable", temperature=0.1, bias=-10.0,
    max_scale=None, reducer="sigmoid",
)  # fmt: skip
table_preset(
    "supcon", paper="Khosla et al. 2020 (arXiv 2004.11362), L_out", direction="views", temperature=0.07,
    base_temperature=0.07, target="same", by="label", others=1.0,
)  # fmt: skip
