#!/usr/bin/env bash
# ranx 0.3.21
#
# Behaviour: fuse(norm="min-max") gives the only document of a list the score 0, as much as a document that the list
# did not find at all. A part number that the lexical search finds in one document, with a score of 14.2, gets 0 for it
# and stands last; with a second, worse hit (1.1) beside it the same document gets 1 and stands second. Two hits with
# equal scores are 0 both. norm="max" gives 1 in each case.
#
# Why a good guess misses: the formula is 0/0 there, and one guesses 1 (the best of its list, and how others define
# it), 0.5, or NaN and so something to see. ranx puts 1e-9 in the place of the range, and 0 / 1e-9 is 0: the more
# specific the query, the less the list counts. min-max is the default of fuse(), and a list of one hit is the usual
# answer of a lexical search to the very queries for which one keeps it beside the vectors.
#
# Output seen on 2026-11-30:
#   min-max  lexical list: one hit                gives part 4711-B 0.00, rank 4 of 4
#   min-max  lexical list: two hits               gives part 4711-B 1.00, rank 2 of 4
#   min-max  lexical list: two equal hits         gives part 4711-B 0.00, rank 4 of 4
#   min-max  lexical list: another document only  gives part 4711-B 0.00, rank 4 of 5
#   max      lexical list: one hit                gives part 4711-B 1.00, rank 1 of 4
#   max      lexical list: two hits               gives part 4711-B 1.00, rank 1 of 4
#   max      lexical list: two equal hits         gives part 4711-B 1.00, rank 2 of 4
#   max      lexical list: another document only  gives part 4711-B 0.00, rank 5 of 5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ranx==0.3.21
cat >"$work/check.py" <<'PY'
import inspect

from ranx import Run, fuse

dense = Run.from_dict({"q": {"d1": 0.62, "d2": 0.61, "d3": 0.60, "part 4711-B": 0.30}})
lists = {
    "one hit": {"part 4711-B": 14.2},
    "two hits": {"part 4711-B": 14.2, "d3": 1.1},
    "two equal hits": {"part 4711-B": 14.2, "d3": 14.2},
    "another document only": {"d9": 14.2},
}
share = {}
for norm in ("min-max", "max"):
    alone = fuse([dense, Run.from_dict({"q": {"d9": 1.0, "d8": 0.0}})], norm=norm, method="sum").to_dict()["q"]["part 4711-B"]
    for title, hits in lists.items():
        fused = fuse([dense, Run.from_dict({"q": hits})], norm=norm, method="sum").to_dict()["q"]
        share[norm, title] = fused["part 4711-B"] - alone
        order = sorted(fused, key=fused.get, reverse=True)
        print(f"{norm:8s} lexical list: {title:22s} gives part 4711-B {share[norm, title]:.2f},"
              f" rank {order.index('part 4711-B') + 1} of {len(order)}")
assert share["min-max", "one hit"] == share["min-max", "two equal hits"] == share["min-max", "another document only"] == 0
assert abs(share["min-max", "two hits"] - 1) < 1e-9
assert all(abs(share["max", title] - 1) < 1e-9 for title in ("one hit", "two hits", "two equal hits"))
assert share["max", "another document only"] == 0
assert inspect.signature(fuse).parameters["norm"].default == "min-max"
PY
"$work/venv/bin/python" -W ignore "$work/check.py"
