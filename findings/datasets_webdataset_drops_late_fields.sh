#!/usr/bin/env bash
# datasets 5.2.0
#
# Behaviour: load_dataset("webdataset") throws away what first occurs in the sixth sample or later: a file with another
# ending (a second caption, a hard negative), a key of the json. There is no error and no line; 15 of 20 captions here
# are gone, loaded or streamed, and the column is not in the features. The same file in the first sample keeps the
# column, with None where a sample lacks it afterwards.
#
# Why a good guess misses: the builder fills missing fields with None, so optional ones look provided for, and a field
# that differs among the first five samples is an error that says so. Of the rest nothing is compared: the features are
# those of five samples, and what they do not name is left out when a row is encoded. webdataset itself gives each
# sample all of its files.
#
# Output seen on 2026-11-30:
#   in all             streaming=False: 20 samples with more; read: 20 texts, 20 keys; features: ['__key__', '__url__', 'json', 'negative.txt', 'txt']
#   in all             streaming=True : 20 samples with more; read: 20 texts, 20 keys; features: ['__key__', '__url__', 'json', 'negative.txt', 'txt']
#   from the sixth on  streaming=False: 15 samples with more; read: 0 texts, 0 keys; features: ['__key__', '__url__', 'json', 'txt']
#   from the sixth on  streaming=True : 15 samples with more; read: 0 texts, 0 keys; features: ['__key__', '__url__', 'json', 'txt']
#   in the first five  streaming=False: 5 samples with more; read: 5 texts, 5 keys; features: ['__key__', '__url__', 'json', 'negative.txt', 'txt']
#   in the first five  streaming=True : 5 samples with more; read: 5 texts, 5 keys; features: ['__key__', '__url__', 'json', 'negative.txt', 'txt']
#   from the fifth on  streaming=False: ValueError
#   from the fifth on  streaming=True : ValueError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0
cat >"$work/check.py" <<'PY'
import io
import json
import sys
import tarfile
from pathlib import Path

import datasets

work = Path(sys.argv[1])
datasets.disable_progress_bars()


def shard(name, has_more):
    """Twenty samples: a text each, and a second text and a key of the json where `has_more`."""
    with tarfile.open(work / name, "w") as tar:
        for number in range(20):
            files = {"txt": f"text {number}", "json": json.dumps({"size": number})}
            if has_more(number):
                files |= {"negative.txt": f"negative {number}", "json": json.dumps({"size": number, "source": "web"})}
            for ending, content in files.items():
                entry = tarfile.TarInfo(f"{number:04d}.{ending}")
                entry.size = len(content.encode())
                tar.addfile(entry, io.BytesIO(content.encode()))
    return str(work / name)


def read(file, streaming):
    rows = datasets.load_dataset("webdataset", data_files={"train": file}, split="train", streaming=streaming, cache_dir=str(work))
    return rows.features, list(rows)


cases = {
    "in all": lambda number: True,
    "from the sixth on": lambda number: number >= 5,
    "in the first five": lambda number: number < 5,
    "from the fifth on": lambda number: number >= 4,
}
found = {}
for title, has_more in cases.items():
    file = shard(title.replace(" ", "-") + ".tar", has_more)
    there = sum(map(has_more, range(20)))
    for streaming in (False, True):
        try:
            features, rows = read(file, streaming)
        except Exception as error:
            cause = error.__cause__ or error
            print(f"{title:18s} streaming={streaming!s:5}: {type(cause).__name__}")
            found[title, streaming] = "error"
            continue
        texts = sum(row.get("negative.txt") is not None for row in rows)
        keys = sum(row["json"].get("source") is not None for row in rows)
        found[title, streaming] = texts, keys, "negative.txt" in features
        print(f"{title:18s} streaming={streaming!s:5}: {there} samples with more; read: {texts} texts, {keys} keys;"
              f" features: {sorted(features)}")
for streaming in (False, True):
    assert found["in all", streaming] == (20, 20, True)
    assert found["from the sixth on", streaming] == (0, 0, False)
    assert found["in the first five", streaming] == (5, 5, True)
    assert found["from the fifth on", streaming] == "error"
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore "$work/check.py" "$work"
