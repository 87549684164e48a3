#!/usr/bin/env bash
# model2vec 0.10.0, sentence-transformers 6.2.0, torch 2.13.0 (CPU), tokenizers 0.23.3
#
# Behaviour: a folder written by model2vec's save_pretrained holds a modules.json, so that sentence-transformers opens
# it as it stands, but the two give different vectors for a text with a word outside the vocabulary. model2vec leaves
# unknown words out of the mean; sentence-transformers (from the folder, and by StaticEmbedding.from_model2vec too) adds
# the vector of [UNK] for each. "the cat" agrees to the last digits; "the zzz cat" has a cosine of 0.795 between the
# two readers, and the cosine of "zzz" and "qqq", two words unknown to both, is 1 in sentence-transformers and 0 in model2vec.
#
# Why a good guess misses: the folder names the classes of sentence-transformers itself, the token weights, the mapping
# of merged tokens and the normalisation are taken over rightly, and a test on known words shows full agreement.
# Distilled models with word pieces seldom have unknown words; those with a vocabulary of words have them in many texts.
#
# Output seen on 2026-11-29:
#   'the cat'      folder          cosine  1.000   lengths: model2vec 1.224, sentence-transformers 1.224
#   'the cat'      from_model2vec  cosine  1.000   lengths: model2vec 1.224, sentence-transformers 1.224
#   'the zzz cat'  folder          cosine  0.795   lengths: model2vec 1.224, sentence-transformers 1.581
#   'the zzz cat'  from_model2vec  cosine  0.795   lengths: model2vec 1.224, sentence-transformers 1.581
#   'zzz'          folder          cosine  0.000   lengths: model2vec 0.000, sentence-transformers 3.167
#   'zzz'          from_model2vec  cosine  0.000   lengths: model2vec 0.000, sentence-transformers 3.167
#   cosine of 'zzz' and 'qqq': model2vec 0.000, sentence-transformers 1.000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  model2vec==0.10.0 sentence-transformers==6.2.0 torch==2.13.0 tokenizers==0.23.3 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import sys

import numpy as np
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

folder = sys.argv[1] + "/model"
words = "[PAD] [UNK] the cat dog runs fast far away bird fish swims deep".split()
core = Tokenizer(models.WordLevel({word: key for key, word in enumerate(words)}, unk_token="[UNK]"))
core.pre_tokenizer = pre_tokenizers.Whitespace()
vectors = np.random.default_rng(0).normal(size=(len(words), 8)).astype(np.float32)
StaticModel(vectors, core, normalize=False).save_pretrained(folder)

own = StaticModel.from_pretrained(folder)
readers = {
    "folder": SentenceTransformer(folder, device="cpu"),
    "from_model2vec": SentenceTransformer(modules=[StaticEmbedding.from_model2vec(folder)], device="cpu"),
}


def cosine(first, second):
    return float(first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1e-12))


for text in ("the cat", "the zzz cat", "zzz"):
    for name, reader in readers.items():
        here, there = own.encode([text])[0], reader.encode([text])[0]
        print(f"{text!r:14s} {name:15s} cosine {cosine(here, there):6.3f}   lengths: model2vec"
              f" {np.linalg.norm(here):.3f}, sentence-transformers {np.linalg.norm(there):.3f}")
        assert np.allclose(here, there, atol=1e-6) == (text == "the cat")

reader = readers["folder"]
assert abs(cosine(own.encode(["the zzz cat"])[0], reader.encode(["the zzz cat"])[0]) - 0.795) < 0.001
pairs = [cosine(*model.encode(["zzz", "qqq"])) for model in (own, reader)]
print(f"cosine of 'zzz' and 'qqq': model2vec {pairs[0]:.3f}, sentence-transformers {pairs[1]:.3f}")
assert abs(pairs[0]) < 1e-6 and abs(pairs[1] - 1) < 1e-5
PY
export HF_HUB_OFFLINE=1 TQDM_DISABLE=1
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/check.py" "$work" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
