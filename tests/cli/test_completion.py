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


@pytest.mark.parametrize(
    ("shell", "line", "answer"),
    [
        ("zsh", "train quickst", """_arguments '*: :(("quickstart"))'"""),
        ("zsh", "train pairs objective=cosen", """_arguments '*: :(("objective=cosent"))'"""),
        ("zsh", "train pairs faq", "_files"),
        ("fish", "train quickst", "quickstart"),
        ("fish", "train pairs train.batch", "train.batch_size=\ntrain.batch_size=VALUE"),
        ("fish", "objectives cosen", "cosent"),
        ("fish", "train pairs faq", ""),
    ],
)
def test_zsh_and_fish_are_answered_in_their_form(
    shell: str, line: str, answer: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hand over the line as it is, and take a word with "=" as one."""
    monkeypatch.setenv("_EMBEDKIT_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", f"embedkit {line}")
    with pytest.raises(SystemExit, match="0"):
        main([])
    assert capsys.readouterr().out == f"{answer}\n"


@pytest.mark.parametrize("option", ["--install-completion", "--show-completion"])
def test_a_shell_behind_the_option_is_not_silently_another(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option, "zsh"]) == 2
    assert capsys.readouterr().err == (
        f"embedkit: on the command line: 'zsh' is not read: {option} is for the shell that it is written in; "
        f"write `embedkit {option}` in that shell\n"
    )


def test_every_setting_that_is_offered_is_one() -> None:
    words = setting_words(typer.Context(click.Command("train")), "")
    assert len(words) > 100
    for word in words:
        key = word.removesuffix("=")
        full = full_key(key, "here")[0]
        assert full == key or full.startswith(f"{key}.")  # data=rows.csv is data.train
