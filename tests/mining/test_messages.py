"""What the commands that make training data say to wrong files, options and writers, by their own names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import UserError
from embedkit.factory import build
from embedkit.mining.output import check_output
from embedkit.mining.scorer import load_scorer

ROWS = ["How do I pay?,By card.", "When do you open?,We open at nine.", "Where are you?,We are in Mill Street."]
ODD = ["nr,Frage,Antwort", *(f"{number},{row}" for number, row in enumerate(ROWS))]
CODE = """
def write(prompt): return '["a text"]'
def lazy(prompt): raise RuntimeError("no quota")
def score(a, b): return [float(len(x)) for x in a]
def one(a): return a
def picky():
    def rule(context, places):
        if any("Mill" in cell for place in places for cell in context.table.rows[place].values()):
            raise ValueError("no streets")
    return rule
def vague(): return lambda context, places: list(places)
def street(caption): return 1 / ("Where" not in caption), 0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small files in the working folder."""
    (tmp_path / "faq.csv").write_text("\n".join(["question,answer", *ROWS]))
    (tmp_path / "odd.csv").write_text("\n".join(ODD))
    (tmp_path / "own.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str]:
    """Exit code, and all that a command prints."""
    capsys.readouterr()
    code = main(line.split())
    streams = capsys.readouterr()
    return code, streams.out + streams.err


WRONG = {
    "mine faq.csv o.jsonl": "--anchor-vectors: neither a model nor all vectors are given; give a model, or "
    "--anchor-vectors and --corpus-vectors",
    "mine faq.csv o.jsonl --model m --range-min 5 --range-max 2": "--range-max: ranks 5 to 2 hold fewer than 3 "
    "negatives; raise --range-max, or lower --num-negatives or --range-min",
    "mine odd.csv o.jsonl --model m": "map one with --columns '{COLUMN: anchor}'",
    "mine faq.csv o.jsonl relative_margin=0.05": "write --relative-margin 0.05",
    "label faq.csv o.jsonl --model m": "write `embedkit label FILE OUTPUT --clusters CLUSTERS`",
    "label faq.csv o.jsonl -k 2": "give a model, or --vectors FILE.npy",
    "label faq.csv o.jsonl -k 2 --model m --centres gone/c.npy": "gone: folder does not exist; create it",
    "index faq.csv o": "write `embedkit index FILE INDEX --model MODEL`",
    "dedup odd.csv o.jsonl": "'Antwort' holds the texts?; name it: --column NAME",
    "score faq.csv o.jsonl --scorer own.py:score --seed 3": "--seed: there are no random pairs, so that it "
    "has no effect; set --random-zeros",
    "score faq.csv o.jsonl --scorer own.py:one": "own.py:one: failed on 3 pairs (TypeError: one() takes 1",
    "generate faq.csv o.jsonl --writer own.py": "own.py: the name of the writer is missing; write own.py:NAME",
    "score faq.csv o.jsonl --model m --batch-size 8": "--batch-size: it is for a scorer, and a model is given",
    "generate faq.csv o.jsonl --writer own.py:write --timeout 5": "--timeout: it is for a command, so that it has no "
    "effect; leave it out",
    "generate faq.csv o.jsonl --as-requests --parallel 2": "--parallel: with --as-requests nothing is called",
    "generate faq.csv o.jsonl --answers a.jsonl --max-failures 2": "--max-failures: with answers nothing is called",
    "generate faq.csv o.jsonl --writer own.py:write --retries 0 --backoff 2": "--backoff: no call is repeated",
    "mine faq.csv o.jsonl --model m --corpus-column x": "--corpus-column: there is no corpus",
    "select faq.csv o.jsonl own.py:picky": "own.py:picky on faq.csv:4: failed (ValueError: no streets); mend the",
    "select faq.csv o.jsonl own.py:vague": "own.py:vague: returned list; return Outcome(places)",
    "select faq.csv o.jsonl caption={parser:own.py:street}": "own.py:street",
    "generate faq.csv o.jsonl --writer own.py:lazy --retries 0": "the last one: RuntimeError: no quota",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_mistake_is_told_by_the_names_of_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    code, text = said(capsys, line)
    assert code == 2 and WRONG[line] in text and len(text.splitlines()) == 1
    assert not list(folder.glob("o*.jsonl")) or "lazy" in line  # whose answers are kept


def test_python_keeps_its_own_names(folder: Path) -> None:
    with pytest.raises(UserError, match=r"^range_max: .* raise range_max"):
        embedkit.mine("faq.csv", "m", range_min=5, range_max=2)


def test_no_output_replaces_its_source_or_lies_in_it(folder: Path) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "a.jsonl").write_text("{}\n")
    (folder / "link.jsonl").symlink_to("notes/a.jsonl")
    for output, source in (("notes/a.jsonl", "notes/a.jsonl"), ("link.jsonl", Path("notes/a.jsonl"))):
        with pytest.raises(UserError, match="is the file that is read, too"):
            check_output(output, True, source)
    with pytest.raises(UserError, match="lies in the folder that is read, notes"):
        check_output("notes/b.jsonl", False, None, "notes")
    assert check_output("notes.jsonl", False, "notes", ["a text"]).name == "notes.jsonl"
    assert (folder / "notes" / "a.jsonl").read_text() == "{}\n"


def test_an_encoder_is_no_cross_encoder(folder: Path) -> None:
    """Older folders of sentence-transformers do not say what they are; a head of random numbers would score."""
    build(load_recipe("quickstart").model).save("model")
    for settings in ('{"__version__": {"sentence_transformers": "2.0.0"}}', '{"model_type": "SentenceTransformer"}'):
        (folder / "model" / "config_sentence_transformers.json").write_text(settings)
        with pytest.raises(UserError, match="is a model of vectors, no cross-encoder"):
            load_scorer("model")
    (folder / "model" / "config_sentence_transformers.json").unlink()
    with pytest.raises(UserError, match="is a model of vectors, no cross-encoder"):
        load_scorer("model")


ASIDE = [
    ["generate", "--writer", "own.py:write"], ["label", "-k", "2"], ["dedup"], ["select", "length=1"],
]  # fmt: skip


@pytest.mark.parametrize("words", ASIDE, ids=lambda words: words[0])
def test_where_chooses_the_rows_that_are_read(folder: Path, words: list[str]) -> None:
    rows = [{"text": f"text {number}", "lang": "en" if number % 2 else "de"} for number in range(8)]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build(load_recipe("quickstart").model).save("model")
    model = ["--model", "model"] if words[0] == "label" else []
    call = [words[0], "t.jsonl", "o.jsonl", *words[1:], *model, "--where", "{lang: en}"]
    assert main(call) == 0
    found = [json.loads(line) for line in (folder / "o.jsonl").read_text().splitlines()]
    assert {row.get("text", row.get("anchor")) for row in found} == {row["text"] for row in rows if row["lang"] == "en"}


@pytest.mark.parametrize("case", [
    ("{land: en}", "t.jsonl: 'where' names no column 'land'; did you mean 'lang'?"),
    ("{lang: fr}", "t.jsonl: no rows are left; check the values of where"), ("lang", "--where is 'lang', no mapping"),
])  # fmt: skip
def test_where_that_fits_nothing_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], case: tuple[str, str]
) -> None:
    (folder / "t.jsonl").write_text('{"text": "a", "lang": "en"}\n{"text": "b", "lang": "de"}\n')
    assert main(["dedup", "t.jsonl", "o.jsonl", "--where", case[0]]) == 2
    assert case[1] in capsys.readouterr().err
    with pytest.raises(UserError, match="they belong to all rows, and where leaves some out"):
        embedkit.select("t.jsonl", "length=1", vectors=[[1.0], [1.0]], where={"lang": "en"})


def test_an_error_tells_what_is_kept_and_an_empty_file_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = "n = 0\ndef second(a, b):\n    global n\n    n += 1\n    assert n % 2\n    return [0.5] * len(a)\n"
    (folder / "second.py").write_text(calls)
    monkeypatch.setattr("embedkit.mining.scores.api.WINDOW", 2)
    with pytest.raises(UserError, match=r"mend the function.*; the scores so far are kept in .*\.o\.jsonl\.scores"):
        embedkit.score("faq.csv", "second.py:second", output="o.jsonl")
    assert (folder / ".o.jsonl.scores.jsonl").is_file()
    assert embedkit.score("faq.csv", "second.py:second", output="o.jsonl").report.reused == 2
    assert not list(folder.glob(".o*"))
    (folder / "other.py").write_text("def fail(a, b): raise OSError\ndef lazy(prompt): raise OSError\n")
    with pytest.raises(UserError, match=r"mend the function, which gets two lists of texts$"):
        embedkit.score("faq.csv", "other.py:fail", output="p.jsonl")
    with pytest.raises(UserError, match=r"or raise max_failures$"):
        embedkit.generate("faq.csv", "other.py:lazy", output="p.jsonl", retries=0, max_failures=0)
    assert not [path for path in folder.iterdir() if "p.jsonl" in path.name]


def test_notes_name_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "score faq.csv o.jsonl --scorer own.py:score")
    assert code == 0 and "answer is the positive (--columns changes that)" in text
    build(load_recipe("quickstart").model).save("model")
    code, text = said(capsys, "mine faq.csv m.jsonl --model model --num-negatives 1")
    assert code == 0 and "_" not in text.partition("anchor   ")[0].replace("negative_1", "")


def test_what_has_no_effect_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(load_recipe("quickstart").model).save("model")
    code, text = said(capsys, "select faq.csv few.jsonl length=3 --model model")
    assert code == 0 and "no criterion read vectors, so that the model had no effect" in text
    code, text = said(capsys, "select faq.csv near.jsonl near-duplicates --model model")
    assert code == 0 and "no effect" not in text
    numpy.save("v.npy", numpy.eye(3))
    code, text = said(capsys, "select faq.csv long.jsonl length=3 --vectors v.npy --image-vectors v.npy")
    assert code == 0 and "so that vectors had no effect" in text and "so that image_vectors had no effect" in text
    code, text = said(capsys, "score faq.csv zeros.jsonl --cross-encoder own.py:score --random-zeros 5")
    assert code == 0 and "6 of 15 random pairs were found" in text
    code, text = said(capsys, "generate faq.csv requests.jsonl --as-requests")
    assert code == 0 and "requests to answer; give what comes back as answers" in text and "0 rows" not in text
