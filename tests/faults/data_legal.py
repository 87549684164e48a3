"""Odd and legal training data: what is read, to the character; and legal data that looks wrong, which is said."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from typing import Any

from tests.faults.data_frame import TEXTS, Broken, csv, jsonl, tsv
from tests.faults.data_refused import parquet

Rows = list[dict[str, Any]]
PAIRS: Rows = [{"anchor": a, "positive": p} for a, p in TEXTS]
BREAKS = "a\u2028b\u2029c\x0bd\x0ce\x85f\x1c g"
"""A text with everything that `str.splitlines` splits at and that is no line end."""
LOOKALIKES = ["NA", "null", "001", "None", "nan", "1e5", "True", "-0", "3.10", "0x10", "12:30:00", "1_000"]
"""Texts that other readers turn into something else."""


def _spoken(rows: Rows, text: str, role: str = "positive") -> Rows:
    """The good pairs with one text of the fourth."""
    return [*rows[:3], {**rows[3], role: text}, *rows[4:]]


def _dictionary() -> bytes:
    """Parquet whose texts are stored as numbers of a dictionary, as categories are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: pa.array([row[name] for row in PAIRS]).dictionary_encode() for name in PAIRS[0]}
    handle = io.BytesIO()
    pq.write_table(pa.table(columns), handle)
    return handle.getvalue()


def _words(texts: list[str]) -> bytes:
    """A tsv whose positives are these texts."""
    return ("anchor\tpositive\n" + "".join(f"a word {n}\t{text}\n" for n, text in enumerate(texts))).encode()


_PAIRS_2 = [f"{a} and then {p}" for (a, _) in TEXTS for (_, p) in TEXTS]  # 64 different sentences

ACCEPTED: list[tuple[Broken, Rows, str]] = [
    (Broken("CRLF line ends", {"t.tsv": tsv().replace(b"\n", b"\r\n")}), PAIRS, "no CR in any text"),
    (Broken("no line end at the end", {"t.tsv": tsv().rstrip(b"\n")}), PAIRS, "the last row is whole"),
    (Broken("a byte order mark", {"t.tsv": b"\xef\xbb\xbf" + tsv()}), PAIRS, "the mark is in no column name"),
    (Broken("a byte order mark, jsonl", {"t.jsonl": b"\xef\xbb\xbf" + jsonl()}), PAIRS, "the mark is in no key"),
    (Broken("columns in another order", {"t.csv": "positive,id,anchor\n" + "".join(f"{p},{i},{a}\n" for i, (a, p) in
            enumerate(TEXTS))}), PAIRS, "roles by name: the id is not read"),
    (Broken("U+2028, U+0085, form feeds", {"t.tsv": tsv(f"a dog\t{BREAKS}")}),
     _spoken(_spoken(PAIRS, "a dog", "anchor"), BREAKS), "the row count is stable"),
    (Broken("U+2028 and form feeds, jsonl", {"t.jsonl": jsonl(json.dumps({**PAIRS[3], "positive": BREAKS},
            ensure_ascii=False))}), _spoken(PAIRS, BREAKS), "the row count is stable"),
    (Broken("line ends inside quotes", {"t.csv": csv('"a\r\nb, ""c""",d')}),
     _spoken(_spoken(PAIRS, 'a\r\nb, "c"', "anchor"), "d"), "RFC 4180"),
    (Broken("quotation marks in a tsv", {"t.tsv": tsv('"a dog\t" an animal')}),
     _spoken(_spoken(PAIRS, '"a dog', "anchor"), '" an animal'), "a mark is a character"),
    (Broken("NA, null, 001, True, 1e5", {"t.tsv": _words(LOOKALIKES)}),
     [{"anchor": f"a word {n}", "positive": text} for n, text in enumerate(LOOKALIKES)], "texts to the character"),
    (Broken("emoji, combining marks, right-to-left", {"t.tsv": tsv("a 👩‍👩‍👧 e\u0301\t\u202bשלום\u202c")}),
     _spoken(_spoken(PAIRS, "a 👩‍👩‍👧 e\u0301", "anchor"), "\u202bשלום\u202c"), "no character is changed"),
    (Broken("a pair of surrogates", {"t.jsonl": jsonl('{"anchor": "a \\ud83d\\ude00", "positive": "b"}')}),
     _spoken(_spoken(PAIRS, "a 😀", "anchor"), "b"), "one character"),
    (Broken("keys that differ from row to row", {"t.jsonl": jsonl({**PAIRS[3], "note": [1, {"a": None}]})}), PAIRS,
     "a key without a role is not read"),
    (Broken("gzip by content, not by name", {"t.tsv": gzip.compress(tsv())}), PAIRS, "unpacked"),
    (Broken("parquet with categories", {"t.parquet": _dictionary()}), PAIRS, "texts, not numbers"),
    (Broken("parquet with nulls in a column that is not read",
            {"t.parquet": parquet(**{k: [r[k] for r in PAIRS] for k in PAIRS[0]}, note=[None, *range(7)])}), PAIRS,
     "not read"),
    (Broken("10 MB in a cell, cut on demand", {"t.tsv": tsv("a dog\t" + "word " * 2_000_000)},
            change={"data": {"cut_long": True}}),
     _spoken(_spoken(PAIRS, "a dog", "anchor"), ("word " * 20_000)), "100,000 characters are left"),
    (Broken("negatives of different number", {"t.jsonl": jsonl({**PAIRS[3], "negatives": ["x", "y"]},
            negatives=["z"]).replace(b'"negatives": ["z"]', b'"negatives": []', 1)}),
     [{**PAIRS[0]}, *({**row, "negatives": ["x", "y"] if n == 3 else ["z"]} for n, row in enumerate(PAIRS) if n)],
     "lists of any length"),
    (Broken("a label as text, a score as text", {"t.tsv": "anchor\tpositive\tscore\tlabel\n" + "".join(
            f"{a}\t{p}\t1e-1\t07\n" for a, p in TEXTS)}, change={"objective": {"name": "cosent"}}),
     [{**row, "score": 0.1} for row in PAIRS], "numbers; a label that nothing reads is told"),
]  # fmt: skip
"""Files, the rows that must come out, and what that shows."""


def _many(name: str, pair: Callable[[int], tuple[str, str]], *parts: str) -> Broken:
    """Forty rows of (anchor, positive) by number."""
    lines = ["anchor\tpositive", *("\t".join(pair(number)) for number in range(40))]
    return Broken(name, {"t.tsv": "\n".join(lines) + "\n"}, ("t.tsv", *parts) if parts[:1] != ("of 40",) else parts)


WARNED = [
    _many("numbers in place of texts", lambda n: (str(10_000 + n), _PAIRS_2[n]), "'anchor'", "no letter", "an id?"),
    _many("ids in place of texts", lambda n: (_PAIRS_2[n], f"doc-{n:x}7"), "'positive'", "'doc-07'", "an id?"),
    _many("hashes in place of texts", lambda n: (f"{n * 7919:x}9f{n:x}", _PAIRS_2[n]), "'anchor'", "an id?"),
    Broken("a mapping crosswise", {"t.csv": "question,answer\n" + "".join(f"{a},{p}\n" for a, p in TEXTS)},
           ("t.csv", "'answer' is mapped to anchor", "'question' to positive", "swapped?"),
           source={"columns": {"question": "positive", "answer": "anchor"}}),
    _many("questions where the answers are", lambda n: (_PAIRS_2[n], f"what is it that {_PAIRS_2[n]}?"), "questions",
          "'anchor'", "'positive'", "swapped?"),
    _many("all positives equal their anchors", lambda n: (_PAIRS_2[n],) * 2, "same text", "all"),
    _many("half of the positives equal their anchors",
          lambda n: (_PAIRS_2[n], _PAIRS_2[n] if n % 2 else _PAIRS_2[63 - n]), "of 40", "20 ", "equal their anchors"),
    _many("one positive for all anchors", lambda n: (_PAIRS_2[n], "a cat sleeps"), "of 40", "39 ", "positives (98%)",
          "no-duplicates"),
    _many("every anchor five times", lambda n: (_PAIRS_2[n // 5], _PAIRS_2[63 - n]), "of 40", "32 ", "anchors (80%)",
          "no-duplicates"),
    _many("characters lost in a conversion", lambda n: (_PAIRS_2[n], f"caf\ufffd {_PAIRS_2[63 - n]}"), "'positive'",
          "U+FFFD", "lost"),
    Broken("a score that nothing reads", {"t.jsonl": jsonl(score=0.5)}, ("t.jsonl", "'score'", "nothing reads"),
           change={"method": "simcse-sup", "objective": "infonce"}),
]  # fmt: skip
"""What is allowed and said at the start of training."""
