#!/usr/bin/env bash
# sentence-transformers 6.2.0, torch 2.13.0 (CPU)
#
# Behaviour: MatryoshkaLoss(model, loss, [d]) with d the model's own dimension is not the loss inside. It normalises the
# vectors to length 1 at EVERY dimension, the full one included, where nothing is cut. TripletLoss (Euclidean, margin
# 5), the ranking loss with dot products and MSELoss against a teacher's vectors have other values; the ranking loss
# with cosines does not. Lengths are out of the loss, so that for a model without Normalize they are not trained: an
# MSELoss whose teacher has vectors of length 3 can no longer become 0, although the model can copy the teacher exactly.
#
# Why a good guess misses: the documentation calls it a modifier that uses the loss "at various different embedding
# dimensions" and asks to include the full one. With cosines, the usual case, the two are equal; for the others the
# wrapper was expected to cut and no more. A margin of 5 among vectors of length 1 (distances of 2 at most) is never
# reached, so that each triplet is active for ever.
#
# Output seen on 2026-11-29:
#   TripletLoss, margin 5   alone 3.1021   in MatryoshkaLoss with the full dimension only 4.3849
#   ranking, dot product    alone 0.2225   in MatryoshkaLoss with the full dimension only 0.8547
#   MSELoss, equal teacher  alone 0.0000   in MatryoshkaLoss with the full dimension only 0.5000
#   ranking, cosine         alone 0.0013   in MatryoshkaLoss with the full dimension only 0.0013
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  sentence-transformers==6.2.0 torch==2.13.0 tokenizers==0.23.3 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import dot_score
from tokenizers import Tokenizer, models, pre_tokenizers

words = "[UNK] the cat dog runs fast far away bird fish swims deep".split()
core = Tokenizer(models.WordLevel({word: key for key, word in enumerate(words)}, unk_token="[UNK]"))
core.pre_tokenizer = pre_tokenizers.Whitespace()
vectors = np.random.default_rng(0).normal(size=(len(words), 8)).astype(np.float32)
vectors *= 3 / np.linalg.norm(vectors, axis=1, keepdims=True)
model = SentenceTransformer(modules=[StaticEmbedding(core, embedding_weights=vectors)], device="cpu")


def batches(*columns):
    return [model.preprocess(column) for column in columns]


triplets = (["cat runs", "dog far"], ["cat fast", "dog away"], ["bird", "fish"])
teacher = torch.from_numpy(model.encode(["cat", "dog"]))
cases = {
    "TripletLoss, margin 5": (losses.TripletLoss(model, triplet_margin=5), triplets, None),
    "ranking, dot product": (losses.MultipleNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score),
                             triplets, None),
    "MSELoss, equal teacher": (losses.MSELoss(model), (["cat", "dog"],), teacher),
    "ranking, cosine": (losses.MultipleNegativesRankingLoss(model), triplets, None),
}
for name, (loss, columns, labels) in cases.items():
    plain = loss(batches(*columns), labels).item()
    wrapped = losses.MatryoshkaLoss(model, loss, [8])(batches(*columns), labels).item()
    print(f"{name:23s} alone {plain:.4f}   in MatryoshkaLoss with the full dimension only {wrapped:.4f}")
    if name == "ranking, cosine":
        assert abs(plain - wrapped) < 1e-5
    else:
        assert abs(plain - wrapped) > 0.05
    if name.startswith("MSELoss"):
        assert plain == 0
PY
export HF_HUB_OFFLINE=1 TQDM_DISABLE=1
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/check.py" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
