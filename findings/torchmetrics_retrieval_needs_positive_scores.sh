#!/usr/bin/env bash
# torchmetrics 1.9.0, torch 2.13.0 (CPU)
#
# Behaviour: in the retrieval metrics MAP, MRR, recall and precision a relevant document whose score is 0 or less does
# not count as relevant. Cosine similarities or logits of one query, with its two relevant documents at -0.1 and -0.2
# and two others at 0.3 and -0.4: MAP, MRR and recall@4 are 0. Add 1 to all scores, which changes no rank, and they are
# 0.58, 0.5 and 1. NDCG, hit rate and R-precision are the same for both.
#
# Why a good guess misses: these measures are defined by ranks alone, nothing is rejected and no warning is given, and
# the sister metrics do go by ranks. Cosines of most models are positive for relevant texts, so that figures look right
# and sink only for models or queries with negative ones (image-text cosines, cross-encoder logits). The documentation
# calls the scores "estimated probabilities", but a range is neither named nor checked.
#
# Output seen on 2026-11-29:
#   RetrievalMAP             cosines 0.000   cosines + 1 0.583
#   RetrievalMRR             cosines 0.000   cosines + 1 0.500
#   RetrievalRecall          cosines 0.000   cosines + 1 1.000
#   RetrievalPrecision       cosines 0.000   cosines + 1 0.500
#   RetrievalNormalizedDCG   cosines 0.693   cosines + 1 0.693
#   RetrievalHitRate         cosines 1.000   cosines + 1 1.000
#   RetrievalRPrecision      cosines 0.500   cosines + 1 0.500
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import torch
from torchmetrics import retrieval

scores = torch.tensor([0.3, -0.1, -0.2, -0.4])
relevant = torch.tensor([False, True, True, False])
query = torch.zeros(4, dtype=torch.long)
assert scores.argsort().equal((scores + 1).argsort())


def both(name, **settings):
    metric = getattr(retrieval, name)
    values = [metric(**settings)(shifted, relevant, indexes=query).item() for shifted in (scores, scores + 1)]
    print(f"{name:24s} cosines {values[0]:.3f}   cosines + 1 {values[1]:.3f}")
    return values


for name, expected in (("RetrievalMAP", 7 / 12), ("RetrievalMRR", 0.5)):
    low, high = both(name)
    assert low == 0 and abs(high - expected) < 1e-5
for name, expected in (("RetrievalRecall", 1.0), ("RetrievalPrecision", 0.5)):
    low, high = both(name, top_k=4)
    assert low == 0 and abs(high - expected) < 1e-5
for name in ("RetrievalNormalizedDCG", "RetrievalHitRate", "RetrievalRPrecision"):
    low, high = both(name)
    assert low == high > 0
PY
"$work/venv/bin/python" -W ignore "$work/check.py"
