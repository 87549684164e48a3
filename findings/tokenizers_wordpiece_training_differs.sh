#!/usr/bin/env bash
# tokenizers 0.23.3
#
# Behaviour: training a WordPiece vocabulary twice on the same texts, in one process or in two, gives two vocabularies. The
# pieces inside words (##a, ##b ...) have other numbers each time, and where pairs are equally frequent other pieces are
# merged. A BPE trainer on the same texts gives the same vocabulary every time.
#
# Why a good guess misses: there is no seed to set and nothing is drawn, and the first pieces (special tokens, then the
# characters in order) agree, so that a look at the head of the file finds no difference. The pieces with ## get their numbers
# in the order of a hash table of the words, whose seed is another for each table. Sorting the vocabulary afterwards does not
# help, since ties between pairs are broken by these numbers. Special tokens keep their order: naming all characters, as
# themselves and with ##, as special tokens of the trainer fixes it; the model is then rebuilt from the vocabulary.
#
# Output seen on 2026-11-29 (the counts of WordPiece change):
#   WordPiece: 10 vocabularies of 10 trainings
#   BPE: 1 vocabulary of 10 trainings
#   WordPiece with characters in order: 1 vocabulary of 10 trainings
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
cat >"$work/check.py" <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXTS = [f"https://shop{n % 7}.example/item/{n}?page={n % 3}" for n in range(60)]


def vocabularies(model, trainer):
    results = set()
    for _ in range(10):
        tokenizer = Tokenizer(model())
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.train_from_iterator(TEXTS, trainer())
        results.add(tuple(sorted(tokenizer.get_vocab().items())))
    return len(results)


wordpiece = vocabularies(models.WordPiece, lambda: trainers.WordPieceTrainer(vocab_size=80, show_progress=False))
print(f"WordPiece: {wordpiece} vocabularies of 10 trainings")
assert wordpiece > 1
bpe = vocabularies(models.BPE, lambda: trainers.BpeTrainer(vocab_size=80, show_progress=False))
print(f"BPE: {bpe} vocabulary of 10 trainings")
assert bpe == 1
letters = sorted(set("".join(TEXTS)))
pieces = [*letters, *(f"##{letter}" for letter in letters)]
fixed = vocabularies(
    models.WordPiece,
    lambda: trainers.WordPieceTrainer(vocab_size=160, special_tokens=pieces, show_progress=False),
)
print(f"WordPiece with characters in order: {fixed} vocabulary of 10 trainings")
assert fixed == 1
PY
"$work/venv/bin/python" "$work/check.py"
