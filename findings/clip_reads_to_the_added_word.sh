#!/usr/bin/env bash
# transformers 5.23.0, open_clip_torch 3.3.0, torch 2.14.1 (CPU), torchvision 0.29.1
#
# Behaviour: a token that is added to a CLIP's vocabulary cuts every caption off behind it. In transformers, with a
# configuration that says eos_token_id 2, as OpenAI's folders do, add_tokens(["<mine>"]) and resize_token_embeddings()
# as for textual inversion: "a <mine> on the beach" and "a <mine> in a dark red box" have one and the same vector, that
# of "a <mine>". In open_clip the same happens with SimpleTokenizer(additional_special_tokens=[...]), its own way to
# add one. With the end token's real number in the configuration transformers is right.
#
# Why a good guess misses: the vector of a caption is documented as that of its end token, and it is, for all captions
# without the new one. Both find the end by the HIGHEST number in the row, which the end token has in CLIP's own
# vocabulary; the new token's number is the next one. Nothing fails, what stands before the new token still counts, and
# a prompt with the new word last ("a photo of <mine>"), the usual one, nearly comes out right.
#
# Output seen on 2026-12-01:
#   transformers, eos_token_id 2      'a dog on the beach' is apart from 'a dog in a dark red box' by 1.88, from 'a dog' by 1.92
#   transformers, eos_token_id 2      'a <mine> on the beach' is apart from 'a <mine> in a dark red box' by 0.00, from 'a <mine>' by 0.00
#   transformers, eos_token_id 49407  'a dog on the beach' is apart from 'a dog in a dark red box' by 1.88, from 'a dog' by 1.92
#   transformers, eos_token_id 49407  'a <mine> on the beach' is apart from 'a <mine> in a dark red box' by 1.90, from 'a <mine>' by 1.17
#   open_clip                         'a dog on the beach' is apart from 'a dog in a dark red box' by 1.13, from 'a dog' by 1.64
#   open_clip                         'a <mine> on the beach' is apart from 'a <mine> in a dark red box' by 0.00, from 'a <mine>' by 0.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  transformers==5.23.0 open_clip_torch==3.3.0 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from transformers import CLIPTextConfig, CLIPTextModel

captions = ["a {} on the beach", "a {} in a dark red box", "a {}"]
tokenizer = SimpleTokenizer(additional_special_tokens=["<mine>"])  # CLIP's vocabulary of 49,408, and one more
start, end, mine = tokenizer.sot_token_id, tokenizer.eot_token_id, tokenizer.encode("<mine>")[0]
assert (start, end, mine) == (49406, 49407, 49408)


def rows(word, padding):
    table = torch.full((len(captions), 16), padding)
    for number, caption in enumerate(captions):
        ids = [start, *tokenizer.encode(caption.format(word)), end]
        table[number, : len(ids)] = torch.tensor(ids)
    return table


def transformers_clip(named_end):
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16)
    model = CLIPTextModel(CLIPTextConfig(vocab_size=49408, bos_token_id=start, eos_token_id=named_end, pad_token_id=end, **sizes))
    model.resize_token_embeddings(49409, mean_resizing=False)
    return lambda ids: model.eval()(ids).pooler_output


def open_clip_text():
    torch.manual_seed(0)
    return TextTransformer(context_length=16, vocab_size=tokenizer.vocab_size, width=32, heads=2, layers=2, output_dim=32).eval()


for title, encode, padding, right in (
    ("transformers, eos_token_id 2", transformers_clip(2), end, False),
    ("transformers, eos_token_id 49407", transformers_clip(end), end, True),
    ("open_clip", open_clip_text(), 0, False),
):
    for word in ("dog", "<mine>"):
        with torch.no_grad():
            vectors = encode(rows(word, padding))
        apart = [float((vectors[0] - vector).abs().max()) for vector in vectors[1:]]
        print(f"{title:33s} 'a {word} on the beach' is apart from 'a {word} in a dark red box' by {apart[0]:.2f}, from 'a {word}' by {apart[1]:.2f}")
        assert all(length > 0.1 for length in apart) if right or word == "dog" else max(apart) < 1e-5
PY
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore "$work/check.py"
