#!/usr/bin/env bash
# datasets 5.2.0
#
# Behaviour: class_encode_column("label") on a column of whole numbers 0 to 11 turns label 2 into class 4, 3 into 5 and
# 10 into 2. Up to ten classes nothing changes; from the eleventh on the numbers in the column are other ones than
# before, though the column held class numbers already. The same rows encoded in two parts (a train and a test file)
# agree only if both hold the same labels.
#
# Why a good guess misses: a column of numbers 0..n-1 without gaps looks as if it were encoded, and data sets with up to
# ten classes confirm it. The numbers are made into texts first and sorted as texts: "10" and "11" stand before "2".
# A train_test_split with stratify_by_column asks for a ClassLabel column, so this is the usual step before it.
# cast_column with ClassLabel(num_classes=12) keeps the numbers.
#
# Output seen on 2026-11-29:
#   labels 0..9 become [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
#   labels 0..11 become [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]
#   label 2 in a file with 1, 2, 10: 2  in a file with 1, 2: 1
#   cast_column keeps [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0
cat >"$work/check.py" <<'PY'
import datasets
from datasets import ClassLabel, Dataset

datasets.disable_progress_bars()


def encoded(labels):
    return list(Dataset.from_dict({"label": labels}).class_encode_column("label")["label"])


for count in (10, 12):
    print(f"labels 0..{count - 1} become", encoded(list(range(count))))
assert encoded(list(range(10))) == list(range(10))
assert encoded(list(range(12))) == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]

train, test = encoded([1, 2, 10]), encoded([1, 2])
print("label 2 in a file with 1, 2, 10:", train[1], " in a file with 1, 2:", test[1])
assert train == [0, 2, 1] and test == [0, 1]

kept = Dataset.from_dict({"label": list(range(12))}).cast_column("label", ClassLabel(num_classes=12))
print("cast_column keeps", list(kept["label"]))
assert list(kept["label"]) == list(range(12))
PY
export HF_HUB_OFFLINE=1
"$work/venv/bin/python" "$work/check.py"
