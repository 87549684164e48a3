"""Topics of texts: two made themes are found, shares and their order, what is refused, and the way into training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embedkit.cli.app import main
from embedkit.errors import DataError, UserError
from embedkit.mining.labels.topics import label_topics

SEA, TOWN = ("wave", "boat", "sail", "harbour"), ("street", "tram", "bridge", "market")


def made(count: int = 60) -> list[dict[str, object]]:
    """Texts of one of two themes, two of three of the first."""
    draw = np.random.default_rng(0)
    return [
        {"id": n, "image": f"{n}.png", "caption": "the " + " and a ".join(draw.choice(SEA if n % 3 else TOWN, 3))}
        for n in range(count)
    ]


def test_themes_are_found_and_shares_sum_to_one() -> None:
    result = label_topics(made(), topics=2)
    shares = np.array([row["topics"] for row in result.rows])
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    np.testing.assert_array_equal(shares.argmax(axis=1), [0 if n % 3 else 1 for n in range(60)])  # the larger first
    assert shares.max(axis=1).min() > 0.8
    (large, sea), (small, town) = result.report.topics
    assert set(sea[:4]) == set(SEA) and set(town[:4]) == set(TOWN)
    assert large == pytest.approx(shares[:, 0].mean()) and large > small
    assert result.report.vocabulary == 8  # function words do not count
    again = label_topics(made(), topics=2)
    assert again.rows == result.rows
    assert label_topics(made(), topics=2, seed=1).rows != result.rows


def test_rare_and_common_words_do_not_count_and_empty_texts_are_left_out() -> None:
    rows = [*made(30), {"id": 99, "image": "x.png", "caption": "zebra and the"}]
    rows = [{**row, "caption": f"photograph {row['caption']}"} for row in rows]
    result = label_topics(rows, topics=2, name="shares")
    assert result.report.vocabulary == 8  # zebra is in one row, photograph in all
    assert result.report.dropped == 1 and 99 not in [row["id"] for row in result.rows]
    assert label_topics(rows, topics=2, least=1, most=1.0).report.vocabulary == 10


def test_the_command_writes_what_a_head_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in made()))
    call = ["label", str(tmp_path / "rows.jsonl"), str(tmp_path / "out.jsonl"), "--topics", "3", "--steps", "4"]
    assert main(call) == 0
    assert "60 rows with shares of 3 topics of 8 words" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all(len(row["topics"]) == 3 for row in rows) and rows[0]["id"] == 0
    for more, line in (
        (["--clusters", "3"], "--clusters: it has no effect on topics"),
        (["--size", "3"], "--size: it has no effect on topics"),
        (["--nouns"], "--topics: it has no effect on nouns"),
    ):
        assert main([*call, "--overwrite", *more]) == 2
        assert line in capsys.readouterr().err
    assert main([*call[:3], "--clusters", "2", "--most", "0.5", "--overwrite"]) == 2
    assert "--most: it has no effect on clusters; add --nouns or --topics" in capsys.readouterr().err


def test_what_has_no_topics_is_told() -> None:
    with pytest.raises(DataError, match="no word is in 5 rows and in at most 50% of them; lower --least"):
        label_topics(made(4), topics=2, least=5)
    with pytest.raises(UserError, match=r"topics: 1 is no whole number from 2 on"):
        label_topics(made(4), topics=1)
    with pytest.raises(UserError, match="most: 0 is no share"):
        label_topics(made(4), most=0)
    with pytest.raises(DataError, match="has a column 'id' already"):
        label_topics(made(4), name="id")
