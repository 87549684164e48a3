#!/usr/bin/env bash
# bm25s 0.3.16, ranx 0.3.21, numpy 2.4.6
#
# Behaviour: a search by bm25s for words that no document holds answers with k documents of score 0, and with the same
# ones in the same order for every such query, whatever its words. Fused by ranks (ranx, "rrf") with a list of vectors,
# the first of them gets the share of a best hit at every query that the lexical search cannot answer: here it overtakes
# the best document of the vectors from place 7. Fused by scores (min-max) it gets nothing.
#
# Why a good guess misses: "no match" is taken to mean no results, as Lucene, Elasticsearch, tantivy and SQLite's FTS
# answer; or, as k results are promised, places at random that do no harm on average. Here they are fixed by the
# corpus, so that one document gains each time. Fusion by ranks is chosen because it does without the scores, which are
# the only sign. And it is the queries without a match (names, typing errors, other languages) for which one
# has the vectors beside the words.
#
# Output seen on 2026-12-01 (which documents they are depends on the processor):
#   cat barn     bm25s: d0 (1.15), d3 (0.62), d2 (0.62), d1 (0.62), d12 (0.54)
#   zebra        bm25s: d19 (0.00), d18 (0.00), d17 (0.00), d16 (0.00), d15 (0.00)
#                rrf with the vectors, whose best is d0: d19, d0, d1 ...; d19 has place 1
#                sum with the vectors, whose best is d0: d0, d1, d2 ...; d19 has place 7
#   chien chat   bm25s: d19 (0.00), d18 (0.00), d17 (0.00), d16 (0.00), d15 (0.00)
#                rrf with the vectors, whose best is d0: d19, d0, d1 ...; d19 has place 1
#                sum with the vectors, whose best is d0: d0, d1, d2 ...; d19 has place 7
#   qwertz 4711  bm25s: d19 (0.00), d18 (0.00), d17 (0.00), d16 (0.00), d15 (0.00)
#                rrf with the vectors, whose best is d0: d19, d0, d1 ...; d19 has place 1
#                sum with the vectors, whose best is d0: d0, d1, d2 ...; d19 has place 7
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check bm25s==0.3.16 ranx==0.3.21 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import bm25s
from ranx import Run, fuse

corpus = [f"{animal} in the {place}" for animal in ("cat", "dog", "cow", "fox", "owl") for place in ("barn", "park", "lake", "zoo")]
quiet = {"show_progress": False}
index = bm25s.BM25()
index.index(bm25s.tokenize(corpus, stopwords="en", **quiet), **quiet)


def search(query, k=5):
    documents, scores = index.retrieve(bm25s.tokenize(query, stopwords="en", **quiet), k=k, **quiet)
    return dict(zip(documents[0].tolist(), scores[0].tolist()))


usual = list(search("zebra"))
vectors = [document for document in range(20) if document not in usual]
vectors.insert(6, usual[0])  # the vectors have it at place 7
for query in ("cat barn", "zebra", "chien chat", "qwertz 4711"):
    words = search(query)
    print(f"{query:12s} bm25s: {', '.join(f'd{document} ({score:.2f})' for document, score in words.items())}")
    runs = [{f"d{document}": 1.0 - place / 20 for place, document in enumerate(vectors)}]
    runs += [{f"d{document}": score for document, score in words.items()}]
    if query == "cat barn":
        assert list(words)[0] == 0 and min(words.values()) > 0
        continue
    assert not any(words.values()) and list(words) == usual
    for norm, method in ((None, "rrf"), ("min-max", "sum")):
        fused = fuse([Run.from_dict({"q": run}) for run in runs], norm=norm, method=method).to_dict()["q"]
        order = sorted(fused, key=fused.get, reverse=True)
        print(f"{'':12s} {method} with the vectors, whose best is d{vectors[0]}: {', '.join(order[:3])} ...; d{usual[0]} has place {order.index(f'd{usual[0]}') + 1}")
        assert order[0] == (f"d{usual[0]}" if method == "rrf" else f"d{vectors[0]}")
PY
"$work/venv/bin/python" -W ignore "$work/check.py"
