#!/usr/bin/env bash
# torchmetrics 1.9.0, torch 2.13.0 (CPU), pytrec_eval-terrier 0.5.11, ranx 0.3.21
#
# Behaviour: RetrievalMAP(top_k=k) divides by the number of relevant documents FOUND among the first k, not by the
# number that there are. One of ten relevant documents found at rank 1, none at ranks 2 and 3: MAP@3 is 1.0. trec_eval
# and ranx say 0.1 (1 of 10), and the other usual definition, divided by min(k, 10), says 1/3. Finding one more document
# at rank 3 lowers it to 0.83, so that the better list has the worse value.
#
# Why a good guess misses: either of the two usual denominators is a good guess, and a measure of a list should not fall
# when a relevant document takes the place of an irrelevant one. The documentation of top_k says "consider only the top
# k elements". Without top_k all three libraries agree as long as every relevant document is in the list.
#
# Output seen on 2026-11-29:
#   found at rank 1         MAP@3: torchmetrics 1.000   trec_eval 0.100   ranx 0.100
#   found at rank 1         MAP@all: torchmetrics 0.495   trec_eval 0.495   ranx 0.495
#   found at ranks 1 and 3  MAP@3: torchmetrics 0.833   trec_eval 0.167   ranx 0.167
#   found at ranks 1 and 3  MAP@all: torchmetrics 0.569   trec_eval 0.569   ranx 0.569
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6 pytrec_eval-terrier==0.5.11 ranx==0.3.21
cat >"$work/check.py" <<'PY'
import pytrec_eval
import ranx
import torch
from torchmetrics.retrieval import RetrievalMAP


def values(hits, cut):
    """MAP@cut of a list of 20 documents, ten of them relevant, with the first hits as told, in three libraries."""
    target = list(hits) + [False] * 5
    target += [True] * (10 - sum(target))
    target += [False] * (20 - len(target))
    names = [f"d{place:02d}" for place in range(20)]
    scores = [1 - place / 100 for place in range(20)]
    judged = {"q": {name: int(flag) for name, flag in zip(names, target)}}
    run = {"q": dict(zip(names, scores))}
    measure = f"map_cut_{cut}" if cut else "map"
    asked = {f"map_cut.{cut}" if cut else "map"}
    trec = pytrec_eval.RelevanceEvaluator(judged, asked).evaluate(run)["q"][measure]
    other = float(ranx.evaluate(ranx.Qrels(judged), ranx.Run(run), f"map@{cut}" if cut else "map"))
    metric = RetrievalMAP(top_k=cut)
    own = metric(torch.tensor(scores), torch.tensor(target), indexes=torch.zeros(20, dtype=torch.long)).item()
    return own, trec, other


for title, hits in (("found at rank 1", (True, False, False)), ("found at ranks 1 and 3", (True, False, True))):
    for cut in (3, None):
        own, trec, other = values(hits, cut)
        print(f"{title:23s} MAP@{cut or 'all'}: torchmetrics {own:.3f}   trec_eval {trec:.3f}   ranx {other:.3f}")
        assert abs(trec - other) < 1e-6
        if cut is None:
            assert abs(own - trec) < 1e-5
one, two = values((True, False, False), 3), values((True, False, True), 3)
assert one[0] == 1.0 and abs(one[1] - 0.1) < 1e-6
assert abs(two[0] - 5 / 6) < 1e-5 and two[1] > one[1]
PY
"$work/venv/bin/python" -W ignore "$work/check.py"
