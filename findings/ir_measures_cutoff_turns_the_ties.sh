#!/usr/bin/env bash
# ir-measures 0.4.3, pytrec_eval-terrier 0.5.11
#
# Behaviour: in one call to ir_measures, RR@10 of a run can be larger than RR, and RR@1 than P@1. Three documents with
# equal scores, a relevant: RR is 1/3, RR@10 and RR@1 are 1.0, P@1 and Success@1 are 0. With c relevant instead RR is 1
# and RR@10 is 1/3. A reciprocal rank cannot rise when the list is cut; here both measures rank the ties the other way
# round, whatever the order of the run.
#
# Why a good guess misses: one run goes into one call, and the other measures with a cutoff, nDCG@10, AP@10, P@1 and
# Success@1, rank it as those without. They come from trec_eval, which takes the highest id first. trec_eval has no
# reciprocal rank with a cutoff, so the package takes RR@k from another program, that of MS MARCO, and sorts its input
# by the lowest id first. RR@10 is the measure of the MS MARCO leaderboard, and ties are common with 8-bit or binary
# vectors, cut-off scores and copies in a corpus.
#
# Output seen on 2026-11-30:
#   a relevant, three ties: RR 0.333  RR@10 1  RR@1 1  P@1 0  Success@1 0  AP 0.333  AP@10 0.333  nDCG 0.5  nDCG@10 0.5
#   b relevant, three ties: RR 0.5  RR@10 0.5  RR@1 0  P@1 0  Success@1 0  AP 0.5  AP@10 0.5  nDCG 0.631  nDCG@10 0.631
#   c relevant, three ties: RR 1  RR@10 0.333  RR@1 0  P@1 1  Success@1 1  AP 1  AP@10 1  nDCG 1  nDCG@10 1
#   binary codes, lists of 50: RR 0.398  RR@50 0.496  RR@10 0.485  RR@1 0.350  P@1 0.235
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ir-measures==0.4.3 pytrec_eval-terrier==0.5.11 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import itertools

import ir_measures
import numpy as np
from ir_measures import AP, P, Qrel, RR, ScoredDoc, Success, nDCG

measures = [RR, RR @ 10, RR @ 1, P @ 1, Success @ 1, AP, AP @ 10, nDCG, nDCG @ 10]
tied = [ScoredDoc("q1", name, 0.5) for name in "abc"]
for relevant, with_cutoff, without in (("a", 1, 1 / 3), ("b", 1 / 2, 1 / 2), ("c", 1 / 3, 1)):
    seen = []
    for run in itertools.permutations(tied):
        values = ir_measures.calc_aggregate(measures, [Qrel("q1", relevant, 1)], run)
        seen.append({str(measure): round(values[measure], 3) for measure in measures})
    assert all(values == seen[0] for values in seen), "the order of the run counts"
    print(f"{relevant} relevant, three ties:", "  ".join(f"{name} {value:g}" for name, value in seen[0].items()))
    assert abs(values[RR] - without) < 1e-9 and abs(values[RR @ 10] - with_cutoff) < 1e-9
    assert values[AP] == values[AP @ 10] and values[nDCG] == values[nDCG @ 10]
    assert values[P @ 1] == values[Success @ 1] == float(relevant == "c")
    assert values[RR @ 1] == float(relevant == "a")

# 200 queries over 50 documents by binary codes of 16 bits; the relevant document is the noisy query's own
generator = np.random.default_rng(0)
codes = generator.integers(0, 2, size=(50, 16))
qrels, run = [], []
for number in range(200):
    own = int(generator.integers(20))  # among the first twenty of the fifty ids
    query = codes[own] ^ (generator.random(16) < 0.3)
    qrels.append(Qrel(f"q{number:03d}", f"d{own:02d}", 1))
    run += [ScoredDoc(f"q{number:03d}", f"d{d:02d}", float((codes[d] == query).sum())) for d in range(50)]
measures = [RR, RR @ 50, RR @ 10, RR @ 1, P @ 1]
values = ir_measures.calc_aggregate(measures, qrels, run)
print("binary codes, lists of 50:", "  ".join(f"{measure} {values[measure]:.3f}" for measure in measures))
assert values[RR @ 50] > values[RR] + 0.03 and values[RR @ 1] > values[P @ 1] + 0.03
PY
"$work/venv/bin/python" "$work/check.py"
