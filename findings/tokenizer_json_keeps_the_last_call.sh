#!/usr/bin/env bash
# transformers 5.23.0, tokenizers 0.23.3 (no torch)
#
# Behaviour: save_pretrained of a transformers tokenizer writes the truncation and padding of its LAST CALL into
# tokenizer.json. Call it once with max_length=3 and padding="max_length", save it, and every reader that goes to
# tokenizer.json itself (the tokenizers library, and so servers and static or ONNX runtimes) cuts all texts after three
# tokens and pads them to three. transformers reads the same folder back and shows nothing of it: there every call sets
# both anew. A plain call before saving removes both again, also a limit that the tokenizer.json had from the start.
#
# Why a good guess misses: truncation and padding look like arguments of one call, and tokenizer_config.json, where the
# lasting settings stand (model_max_length 512), is not touched. The result depends on what was tokenised last, so that
# a folder saved before and one saved after an evaluation differ.
#
# Output seen on 2026-11-29:
#   saved at once                  truncation None, padding None
#                                  tokenizers reads [[2, 3, 4, 5, 6, 7], [2]], transformers [[2, 3, 4, 5, 6, 7], [2]]
#   saved after a short call       truncation 3, padding {'Fixed': 3}
#                                  tokenizers reads [[2, 3, 4], [2, 0, 0]], transformers [[2, 3, 4, 5, 6, 7], [2]]
#   saved after a plain call       truncation None, padding None
#                                  tokenizers reads [[2, 3, 4, 5, 6, 7], [2]], transformers [[2, 3, 4, 5, 6, 7], [2]]
#   own limit 4, then a plain call truncation None, padding None
#                                  tokenizers reads [[2, 3, 4, 5, 6, 7], [2]], transformers [[2, 3, 4, 5, 6, 7], [2]]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
cat >"$work/check.py" <<'PY'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

work = Path(sys.argv[1])
words = "[PAD] [UNK] one two three four five six".split()
text = "one two three four five six"


def fresh(limit=None):
    core = Tokenizer(models.WordLevel({word: key for key, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if limit:
        core.enable_truncation(limit)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", model_max_length=512)


def saved(tokenizer, name):
    tokenizer.save_pretrained(work / name)
    content = json.loads((work / name / "tokenizer.json").read_text())
    limit = content["truncation"] and content["truncation"]["max_length"]
    padding = content["padding"] and content["padding"]["strategy"]
    core = Tokenizer.from_file(str(work / name / "tokenizer.json"))
    ids = [core.encode(line).ids for line in (text, "one")]
    again = PreTrainedTokenizerFast.from_pretrained(work / name)
    print(f"{name:30s} truncation {limit}, padding {padding}")
    print(f"{'':30s} tokenizers reads {ids}, transformers {again([text, 'one']).input_ids}")
    return limit, padding, ids, again([text, "one"]).input_ids


whole = [[2, 3, 4, 5, 6, 7], [2]]
assert saved(fresh(), "saved at once") == (None, None, whole, whole)

tokenizer = fresh()
tokenizer([text], truncation=True, max_length=3, padding="max_length")
assert saved(tokenizer, "saved after a short call") == (3, {"Fixed": 3}, [[2, 3, 4], [2, 0, 0]], whole)

tokenizer([text])
assert saved(tokenizer, "saved after a plain call") == (None, None, whole, whole)

tokenizer = fresh(limit=4)
assert tokenizer.backend_tokenizer.truncation["max_length"] == 4
tokenizer([text])
limit, _, ids, _ = saved(tokenizer, "own limit 4, then a plain call")
assert limit is None and ids == whole
PY
export TRANSFORMERS_NO_ADVISORY_WARNINGS=1 TRANSFORMERS_VERBOSITY=error
"$work/venv/bin/python" "$work/check.py" "$work"
