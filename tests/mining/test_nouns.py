"""Nouns of captions as labels: what is a thing, which are frequent enough, what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from embedkit.cli.app import main
from embedkit.data.builtin import sentences as builtin
from embedkit.errors import DataError
from embedkit.mining.labels.nouns import label_nouns
from embedkit.mining.selection.captions import nouns


@pytest.mark.parametrize(
    ("caption", "things"),
    [
        ("a man riding a horse on the beach", ["man", "horse", "beach"]),
        ("Three women and two children are sitting at wooden tables.", ["woman", "child", "table"]),
        ("The bus is red; buses, ladies and glasses", ["bus", "lady", "glasses"]),
        ("it is very beautiful here", []),
        ("", []),
    ],
)
def test_things_are_told_from_other_words(caption: str, things: list[str]) -> None:
    assert nouns(caption) == things


def test_the_nouns_of_built_in_scenes_are_those_that_they_were_made_of() -> None:
    rows = list(builtin.rows("scenes-train"))[:200]
    result = label_nouns([{"captions": row["captions"], "made_of": row["nouns"]} for row in rows], least=1)
    assert [row["nouns"] for row in result.rows] == [row["made_of"] for row in result.rows]
    assert len(result.rows) == 200 and result.report.dropped == 0


def test_the_vocabulary_holds_frequent_nouns_only() -> None:
    """Rows are counted, not words; ties go by name; rows that keep none are left out."""
    rows = [{"id": n, "caption": text} for n, text in enumerate(
        ["a dog, a dog", "dogs near a lamp", "a cat near a lamp", "a cat", "an owl", "cats and a dog"])]  # fmt: skip
    counts = Counter({"cat": 3, "dog": 3, "lamp": 2, "owl": 1})
    result = label_nouns(rows, least=2)
    assert [row["id"] for row in result.rows] == [0, 1, 2, 3, 5]
    assert [row["nouns"] for row in result.rows] == [["dog"], ["dog", "lamp"], ["cat", "lamp"], ["cat"], ["cat", "dog"]]
    assert result.report.most == counts.most_common(3) and result.report.rare == 1 and result.report.dropped == 1
    assert label_nouns(rows, least=2, size=1).report.most == [("cat", 3)]
    upper = label_nouns(rows, least=1, parser=lambda caption: caption.upper().split(",")[:1], name="tags")
    assert upper.rows[0]["tags"] == ["A DOG"]


def test_what_cannot_be_labelled_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"no caption names anything; give English captions"):
        label_nouns([{"caption": "it is here"}])
    with pytest.raises(DataError, match=r"no noun is in 2 captions; lower --least"):
        label_nouns([{"caption": "a dog"}])
    with pytest.raises(DataError, match=r"no column of captions; name one with --column: title"):
        label_nouns([{"title": "a dog"}])
    with pytest.raises(DataError, match=r"has a column 'nouns' already"):
        label_nouns([{"caption": "a dog", "nouns": []}])
    file = tmp_path / "texts.txt"
    file.write_text("a dog\na dog runs\n")
    output = str(tmp_path / "out.jsonl")
    for options, told in (
        (["--nouns", "-k", "2"], "--clusters: it has no effect on nouns"),
        (["--nouns", "--spherical"], "--spherical: it has no effect on nouns"),
        (["-k", "2", "--least", "3"], "--least: it has no effect on clusters"),
        ([], "write `embedkit label FILE OUTPUT --clusters CLUSTERS`, or add --nouns"),
    ):
        assert main(["label", str(file), output, *options]) == 2
        assert told in capsys.readouterr().err
    assert main(["label", str(file), output, "--nouns", "--name", "tags"]) == 0
    assert '"tags": ["dog"]' in Path(output).read_text()
