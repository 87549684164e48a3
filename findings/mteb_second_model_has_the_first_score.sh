#!/usr/bin/env bash
# mteb 2.26.24, sentence-transformers 6.2.0, torch 2.13.0 (CPU)
#
# Behaviour: two models with different weights, loaded from two local folders, are evaluated one after the other by
# mteb.evaluate with one result cache (by default there is one, in the home folder). The second gets the score of the
# first without being run. Neither has a name for mteb: both are filed as "no_model_name/available" with revision
# "no_revision_available", a file of that name is there already, so nothing is computed. Of two checkpoints of a
# training run the later one has the earlier one's score, on a later day as well.
#
# Why a good guess misses: the folders differ, so do the weights and the model objects, and the result is a normal one
# with a normal score. A cache of results should either know what it keeps or leave out what it cannot tell apart.
# cache=None or overwrite_strategy="always" gives each model its own score.
#
# Output seen on 2026-11-29:
#   without a cache
#     checkpoint-1: -0.30  filed as no_model_name/available, no_revision_available
#     checkpoint-2: -0.10  filed as no_model_name/available, no_revision_available
#   with one cache for both
#     checkpoint-1: -0.30  filed as no_model_name/available, no_revision_available
#     checkpoint-2: -0.30  filed as no_model_name/available, no_revision_available
#   with overwrite_strategy='always'
#     checkpoint-1: -0.30  filed as no_model_name/available, no_revision_available
#     checkpoint-2: -0.10  filed as no_model_name/available, no_revision_available
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  mteb==2.26.24 sentence-transformers==6.2.0 torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import logging
import sys
from pathlib import Path

import mteb
import numpy as np
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskSTS
from mteb.cache import ResultCache
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

logging.disable(logging.CRITICAL)
work = Path(sys.argv[1])
words = "[UNK] the cat dog runs fast far away bird fish swims deep".split()


def folder(seed):
    """A model folder with random word vectors."""
    core = Tokenizer(models.WordLevel({word: key for key, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.random.default_rng(seed).normal(size=(len(words), 8)).astype(np.float32)
    module = StaticEmbedding(core, embedding_weights=vectors)
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(work / f"checkpoint-{seed}"))
    return str(work / f"checkpoint-{seed}")


class Pairs(AbsTaskSTS):
    metadata = mteb.TaskMetadata(
        name="Pairs", dataset={"path": "own/pairs", "revision": "1"}, description="five pairs", reference=None,
        type="STS", category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"],
        main_score="cosine_spearman", date=None, domains=None, task_subtypes=None, license=None,
        annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation="",
    )
    min_score, max_score = 0, 5

    def load_data(self, **kwargs):
        rows = {
            "sentence1": ["cat runs", "dog far", "bird away", "fish deep", "the swims"],
            "sentence2": ["cat fast", "dog away", "bird far", "fish swims", "the deep"],
            "score": [5, 3, 1, 2, 4],
        }
        self.dataset = DatasetDict(test=Dataset.from_dict(rows))
        self.data_loaded = True


def score(path, **settings):
    model = SentenceTransformer(path, device="cpu")
    result = mteb.evaluate(model, Pairs(), show_progress_bar=False, co2_tracker=False, **settings)
    value = float(result.task_results[0].get_score())
    print(f"  {Path(path).name}: {value:.2f}  filed as {result.model_name}, {result.model_revision}")
    return value


first, second = folder(1), folder(2)
print("without a cache")
alone = [score(path, cache=None) for path in (first, second)]
cache = ResultCache(cache_path=work / "cache")
print("with one cache for both")
shared = [score(path, cache=cache) for path in (first, second)]
print("with overwrite_strategy='always'")
fresh = [score(path, cache=cache, overwrite_strategy="always") for path in (first, second)]
assert abs(alone[0] - alone[1]) > 0.05
assert shared == [alone[0], alone[0]]
assert fresh == alone
PY
export HF_HUB_OFFLINE=1 HF_HOME="$work/home" MTEB_CACHE="$work/default" TQDM_DISABLE=1
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/check.py" "$work" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
