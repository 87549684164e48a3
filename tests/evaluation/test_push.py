"""Models pushed to the hub and read from it again, data streamed from it: over HTTP, to a hub on the loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import embedkit
from embedkit.cli.app import main
from embedkit.errors import DataError, ModelError
from embedkit.evaluation.report.card import write_card
from embedkit.evaluation.report.report import Report
from embedkit.models import StaticEncoder
from tests.helpers.hub import READ_TOKEN, TOKEN, Hub, Repository, clients_of, hub_on_loopback
from tests.helpers.tiny import tokenizer

TEXTS = ["a red dog", "the big house"]
REPOSITORY = "models/ann/faq"


def words_model() -> StaticEncoder:
    """The same small model at each call."""
    torch.manual_seed(0)
    return StaticEncoder(tokenizer(), dim=8)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_on_loopback() as one, clients_of(one, monkeypatch, str(tmp_path / "cache")):
        yield one


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run leaves: model with card and results, log, held-out score, two checkpoints."""
    folder = tmp_path / "secret-place" / "faq"
    recipe = {"name": "faq", "data": {"train": [{"path": str(folder / "faq.csv")}]}}
    model = words_model()
    model.save(folder / "model", recipe=recipe)
    report = Report("sts", {}, {"avg": 61.2}, "avg", {"hash": model.hash()}, {"split": "test"})
    write_card(folder / "model", [report])
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    (folder / "holdout.json").write_text(json.dumps({"metric": "recall@1", "after": 80.0, "file": str(folder)}))
    for step in (1, 2):
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights.safetensors").write_bytes(bytes([step]) * 5000)
        (checkpoint / "complete.json").write_text("{}")
    return folder


def test_a_run_is_pushed_and_read_again(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "faq", "--private"]) == 0
    out, err = capsys.readouterr()
    assert out == f"pushed to {hub.endpoint}/ann/faq\n" and TOKEN not in out + err
    files = hub.files(REPOSITORY)
    assert hub.repositories[REPOSITORY].private and len(hub.repositories[REPOSITORY].commits) == 1
    assert {"model.safetensors", "embedkit.json", "evaluation/sts-test.json", "run/holdout.json"} <= set(files)
    assert not any(name.startswith("checkpoints") for name in files)
    card = files["README.md"].decode()
    assert 'embedkit.load("ann/faq")' in card and "YOUR-NAME" not in card and "| avg | mean | 61.20 |" in card
    for name, content in files.items():
        assert b"secret-place/faq/" not in content.replace(b".../", b"/") or name.endswith(".json"), name
        assert str(run.parent.parent).encode() not in content, f"{name} names a folder of this machine"
    expected = embedkit.load(run).encode(TEXTS)
    for name in ("ann/faq", "hf://ann/faq", "hf://models/ann/faq@main"):
        np.testing.assert_array_equal(embedkit.load(name).encode(TEXTS), expected)


def test_a_model_in_memory_is_pushed_to_a_branch(hub: Hub) -> None:
    model = words_model()
    address = model.push_to_hub("ann/words", revision="half", message="first", token=TOKEN)
    assert address == f"{hub.endpoint}/ann/words/tree/half"
    assert hub.repositories["models/ann/words"].commits == ["first"] and not hub.files("models/ann/words")
    found = embedkit.load("hf://ann/words@half").encode(TEXTS)
    np.testing.assert_array_equal(found, model.encode(TEXTS))


def test_a_new_model_leaves_nothing_of_the_one_before(hub: Hub, run: Path) -> None:
    mine = {"notes.md": b"mine", "images/a.png": b"mine", "checkpoints/step-00000001/weights.safetensors": b"kept"}
    old = {"model-00001-of-00002.safetensors": b"old", "modules.json": b"[]", "3_Dense/config.json": b"{}"}
    hub.add(REPOSITORY, {**mine, **old})
    embedkit.push(run, "ann/faq")
    files = hub.files(REPOSITORY)
    assert set(mine) <= set(files) and "3_Dense/config.json" not in files
    assert not [name for name, content in files.items() if content == b"old"]


def test_a_hub_that_ends_the_connection_is_a_line(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add(REPOSITORY, {"config.json": b"{}"})
    hub.breaks = r"."
    assert main(["push", str(run), "ann/faq"]) == 2
    assert "the hub cannot be reached (" in capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(ModelError, match="nor a model that the hub can give .*check the name and the network"):
        embedkit.load("ann/faq")


def test_the_rest_is_sent_after_an_interruption(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.breaks, hub.allowed = r"PUT /objects/", 2  # the model's weights and those of the first checkpoint
    assert main(["push", str(run), "ann/faq", "--checkpoints"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("embedkit: ann/faq: the hub cannot be reached (")
    assert line.endswith("then give the same command again: what was sent before is kept")
    assert len(hub.repositories[REPOSITORY].commits) == 2, "the model and one checkpoint are there"
    hub.breaks = None
    hub.asked.clear()
    assert main(["push", str(run), "ann/faq", "--checkpoints"]) == 0
    assert sum(request.startswith("PUT") for request in hub.asked) == 1, "what was sent is not sent again"
    commits = hub.repositories[REPOSITORY].commits
    assert commits == ["Model of embedkit", "Checkpoint step-00000001", "Checkpoint step-00000002"]
    for path in (run / "checkpoints").glob("*/*"):
        assert hub.files(REPOSITORY)[path.relative_to(run).as_posix()] == path.read_bytes()


@pytest.mark.parametrize(
    ("token", "says"),
    [(None, "the hub: there is no token"), (READ_TOKEN, "this token may not write here"),
     ("hf_" + "x" * 30, "the hub does not know this token"), ("“hf_" + "x" * 30 + "”", "characters that no token has")],
)  # fmt: skip
def test_a_token_that_cannot_write_is_a_line(
    token: str | None, says: str, hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with clients_of(hub, monkeypatch, str(tmp_path / "cache"), token):
        for words in (["push", str(run), "ann/faq"], ["push", str(run), "ann/faq", "--debug"]):
            assert main(words) == 2
            out, err = capsys.readouterr()
            assert says in err and "HF_TOKEN" in err.splitlines()[-1]
            assert not token or token not in out + err, "a token is never printed"
    assert not hub.repositories and not hub.objects


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["no such folder", "ann/faq"], "no such model folder"),
        (["runs/none", "ann/faq"], "no such model folder; give the folder of a run or of a model"),
        (["RUN", "a/b/c"], "a/b/c: no name of a repository"),
        (["RUN/model/1_Pooling", "ann/faq"], "was not written by embedkit"),
        (["COPY", "ann/faq", "--checkpoints"], "there are no checkpoints"),
    ],
)
def test_bad_input_is_a_line(
    words: list[str], says: str, hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words_model().save(tmp_path / "copy")
    (run / "model/1_Pooling").mkdir(exist_ok=True)
    words = [word.replace("RUN", str(run)).replace("COPY", str(tmp_path / "copy")) for word in words]
    assert main(["push", *words]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and not hub.asked


def test_models_behind_addresses(hub: Hub, run: Path, tmp_path: Path) -> None:
    words_model().save(tmp_path / "copy")
    hub.add("models/ann/many", {f"small/v1/{path.relative_to(tmp_path / 'copy').as_posix()}": path.read_bytes()
                                for path in (tmp_path / "copy").rglob("*") if path.is_file()})  # fmt: skip
    hub.add("models/ann/many", {"model.safetensors": b"x" * 100_000})
    hub.bodies = 0
    found = embedkit.load("hf://ann/many/small/v1").encode(TEXTS)
    np.testing.assert_array_equal(found, words_model().encode(TEXTS))
    assert not any(request.endswith("main/model.safetensors") for request in hub.asked), "only the folder is fetched"
    for address, says in {
        "hf://datasets/ann/pairs": "no address of a model", "hf://ann": "no address of a model",
        "hf://ann/many/other": "no such folder in this repository", "hf://ann/many/../x": "inside the repository",
        "hf://ann/nothing": "RepoNotFound|Repository Not Found|404",
    }.items():  # fmt: skip
        with pytest.raises(ModelError, match=says):
            embedkit.load(address)
    with pytest.raises(ModelError, match="is asked for too"):
        embedkit.load("hf://ann/many@v1", revision="v2")


def _table(rows: int) -> bytes:
    lines = [f"question {number:06d},answer {number:06d}" for number in range(rows)]
    return "\n".join(["question,answer", *lines, ""]).encode()


def test_data_of_the_hub_is_streamed(hub: Hub) -> None:
    from embedkit.data import read_rows

    table = _table(1_200_000)  # the rest of an earlier answer may still be on its way
    hub.repositories["datasets/ann/pairs"] = Repository()
    hub.add("datasets/ann/pairs", {"train.csv": table, "README.md": b"---\nlicense: mit\n---\n"})
    expected = [{"question": f"question {n:06d}", "answer": f"answer {n:06d}"} for n in range(3)]
    for path in ("hf://datasets/ann/pairs/train.csv", "hf://datasets/ann/pairs@main/*.csv", "hf://datasets/ann/pairs"):
        hub.bodies = 0
        assert list(read_rows(path, limit=3)) == expected
        assert hub.bodies < len(table) * 0.9, f"{path}: the whole file was fetched for three rows"
    assert list(read_rows("ann/pairs", "hub", split="train", limit=3)) == expected


def test_data_whose_hub_goes_away_is_a_line(hub: Hub) -> None:
    from embedkit.data import read_rows

    hub.add("datasets/ann/pairs", {"train.csv": _table(600_000)})
    hub.breaks, hub.allowed = "GET .*resolve.*train.csv", 1
    with pytest.raises(DataError, match="train.csv") as caught:
        sum(1 for _ in read_rows("hf://datasets/ann/pairs/train.csv"))
    assert "\n" not in caught.value.line()
