"""The one place where errors become messages: exit codes, one line, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedkit import __version__
from embedkit.cli import app as cli
from embedkit.errors import CheckpointError, UserError


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command line."""
    code = cli.main(words)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["trian", "did you mean 'train'?"]),
        (["train"], ["RECIPE", "embedkit train --help"]),
        (["train", "--nonsense", "quickstart"], ["unknown option '--nonsense'", "--resolved"]),
        (["train", "quickstrat"], ["quickstrat", "did you mean 'quickstart'?"]),
        (["train", "no/such/file.yaml"], ["no/such/file.yaml", "no such file"]),
        (["train", "quickstart", "train.lrr=1"], ["on the command line", "train.lrr", "did you mean 'lr'?"]),
        (["train", "quickstart", "lr"], ["'lr'", "key=value", "write train.lr=VALUE"]),
        (["plan", "quickstart", "train.lr=fast"], ["train.lr", "fast"]),
        (["validate", "quickstart", "train.epochs=null"], ["train.epochs", "train.max_steps"]),
        (["recipes", "nothing"], ["no recipe named 'nothing'"]),
        (["validate", "quickstart", "method=simcse-unsupp"], ["'simcse-unsupp'", "did you mean 'simcse-unsup'?"]),
        (["validate", "quickstart", "method.ratee=0.2"], ["method", "unknown setting 'ratee'"]),
        (["validate", "quickstart", "objective.name=infonec"], ["infonec", "did you mean 'infonce'?"]),
        (["validate", "quickstart", "objective.temperatur=1"], ["temperatur", "did you mean 'temperature'?"]),
        (["validate", "quickstart", "evaluation.metric=avgg"], ["evaluation.metric", "avgg"]),
        (["objectives", "infonec"], ["infonec", "did you mean 'infonce'?"]),
        (["eval", "no/such/model", "--suite", "stss"], ["stss", "did you mean"]),
        (["eval", "no/such/model", "--suite", "builtin-sts", "--split", "tset"], ["tset", "test"]),
        (["recipes", "--json", "no/such/folder/x.json"], ["no/such/folder/x.json", "does not exist"]),
    ],
)
def test_user_errors_are_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], words: list[str], parts: list[str]
) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2 and out == ""
    assert err.startswith("embedkit: ") and err.count("\n") == 1 and "Traceback" not in err
    for part in parts:
        assert part in err


def test_user_errors_keep_their_own_exit_code(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    class Stopped(CheckpointError):
        exit_code = 143

    def stop(*_: Any, **__: Any) -> None:
        raise Stopped("stopped", where="runs/a", remedy="go on with --resume")

    monkeypatch.setattr(cli, "parser", lambda: stop)
    assert run(capsys, "train", "x") == (143, "", "embedkit: runs/a: stopped; go on with --resume\n")


def test_unexpected_errors_ask_for_a_report(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr(cli, "parser", lambda: fail)
    code, _, err = run(capsys, "recipes")
    assert code == 1 and err.count("\n") == 1 and "internal error: ZeroDivisionError: a b" in err and "report" in err
    code, _, err = run(capsys, "recipes", "--debug")
    assert code == 1 and "Traceback" in err and 'raise ZeroDivisionError("a' in err


def test_debug_shows_the_traceback_of_a_user_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--debug", "recipes", "nothing")
    assert code == 2 and "Traceback" in err and UserError.__name__ in str(UserError)


def test_interruption_exits_130(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("embedkit.cli.suites.console", interrupt)  # typer is between it and us
    assert run(capsys, "suites") == (130, "", "embedkit: interrupted\n")
    monkeypatch.setattr(cli, "parser", lambda: interrupt)
    assert run(capsys, "train", "x") == (130, "", "embedkit: interrupted\n")


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"embedkit {__version__}\n", "")
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in ("quickstart", "train", "plan", "validate", "eval", "export", "recipes", "objectives", "methods"):
        assert f"\n  {command} " in out
    code, out, _ = run(capsys)
    assert code == 2 and "Commands:" in out


def test_a_closed_pipe_is_no_error() -> None:
    line = f"{sys.executable} -m embedkit objectives | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0" and done.stderr == ""


def test_json_on_standard_output_is_alone_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "recipes", "--json", "-")
    assert code == 0 and "quickstart" in err
    rows = json.loads(out)
    assert {"name", "group", "method", "description"} == set(rows[0])
    code, out, err = run(capsys, "recipes", "--json", str(tmp_path / "r.json"))
    assert code == 0 and "quickstart" in out and err == ""
    assert json.loads((tmp_path / "r.json").read_text()) == rows


@pytest.mark.parametrize(
    ("given", "seen"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_sleep_soon_unless_the_user_says_otherwise(
    given: dict[str, str], seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # noted, so that it is taken back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["embedkit", "--version"])
    cli.main()
    assert os.environ.get("GOMP_SPINCOUNT") == seen


def test_a_caller_of_main_keeps_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    cli.main(["--version"])
    assert "GOMP_SPINCOUNT" not in os.environ
