"""A shell offers names and settings that the command then takes."""

from __future__ import annotations

import click
import pytest
import typer

from embedkit.cli.app import main
from embedkit.cli.completion import setting_words
from embedkit.config.overrides import full_key


def offers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """What bash is told for the last word."""
    monkeypatch.setenv("_EMBEDKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(("embedkit", *words)))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    with pytest.raises(SystemExit, match="0"):  # typer leaves the process once it has printed
        main([])
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tr"], ["train"]),
        (["train", "quickst"], ["quickstart"]),
        (["train", "pairs", "train.batch"], ["train.batch_size=", "train.batch_size=VALUE"]),
        (["train", "pairs", "train.schedule=cos"], ["train.schedule=cosine"]),
        (["train", "pairs", "seed=1", "objective", "=", "cosen"], ["cosent"]),  # as bash takes a word apart
        (["train", "pairs", "train.gradient_c"], [f"train.gradient_checkpointing={x}" for x in ("", "false", "true")]),
        (["plan", "pairs", "objective=cosen"], ["objective=cosent"]),
        (["methods", "simcl"], ["simclr"]),
        (["objectives", "cosen"], ["cosent"]),
        (["suites", "own-st"], ["own-sts"]),
        (["recipes", "no-such"], []),
    ],
)
def test_the_begun_word_is_completed(
    words: list[str], offered: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    assert offers(capsys, monkeypatch, *words) == offered


def test_every_setting_that_is_offered_is_one() -> None:
    words = setting_words(typer.Context(click.Command("train")), "")
    assert len(words) > 100
    for word in words:
        key = word.removesuffix("=")
        full = full_key(key, "here")[0]
        assert full == key or full.startswith(f"{key}.")  # data=rows.csv is data.train
