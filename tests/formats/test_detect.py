"""Where a name leads, and which library's folder it is: decided without a model, a wrong name told with its remedy."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embedkit.cli.app import main
from embedkit.data.builtin import tokenizer
from embedkit.doctor import examine
from embedkit.errors import ModelError, UnsafeFileError
from embedkit.formats.detect import inspect, locate
from embedkit.formats.registry import reader_of
from embedkit.models import StaticEncoder
from tests.helpers import tiny

MARKS = {
    "embedkit": "embedkit.json", "open_clip": "open_clip_config.json", "sentence-transformers": "modules.json",
    "peft": "adapter_config.json", "transformers": "config.json",
}  # fmt: skip


def folder_of(path: Path, *marks: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for mark in marks:
        (path / mark).write_text("{}")
    return path


# --- locate ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["", "local-dir:", "hf-hub:"])
@pytest.mark.parametrize("mark", MARKS.values())
def test_a_folder_is_itself_with_and_without_open_clips_scheme(tmp_path: Path, scheme: str, mark: str) -> None:
    folder = folder_of(tmp_path / "m", mark)
    assert locate(f"{scheme}{folder}") == folder
    assert locate(folder) == folder


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "m", "config.json")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/m") == tmp_path / "m"


def test_the_model_of_a_run_and_nothing_else_named_model(tmp_path: Path) -> None:
    run = folder_of(tmp_path / "run")
    folder_of(run / "model", "embedkit.json")
    assert locate(run) == run  # no log: not a run
    (run / "log.jsonl").write_text("")
    assert locate(run) == run / "model"


def test_a_run_of_stages_stands_for_the_model_of_its_last_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("1-words", "2-contrast", "10-end"):
        folder_of(run / name / "model", "embedkit.json")
    assert locate(run) == run  # no log: not a run
    (run / "1-words" / "log.jsonl").write_text("")
    assert locate(run) == run / "10-end" / "model"
    (run / "10-end" / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"10-end.*has not written its model"):
        locate(run)


def test_a_folder_of_the_hubs_cache_stands_for_its_main_snapshot(tmp_path: Path) -> None:
    cache = tmp_path / "models--org--name"
    for commit in ("aaa", "bbb"):
        folder_of(cache / "snapshots" / commit, "config.json")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("bbb\n")  # the hub's own file has no line end, an edited one may have
    assert locate(cache) == cache / "snapshots" / "bbb"
    (cache / "refs" / "main").write_text("ccc")  # a snapshot that was deleted
    assert locate(cache) == cache
    with pytest.raises(ModelError, match=r"not a model folder; 2 models lie inside it; give one of .*aaa, .*bbb"):
        reader_of(locate(cache))


def test_checkpoints_of_another_trainer_are_counted_by_number_not_by_letter(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-1000", "checkpoint-20", "checkpoint-best"):
        folder_of(tmp_path / name, "config.json")
    with pytest.raises(ModelError, match=r"holds checkpoints 9, 20, 1000, no model") as caught:
        locate(tmp_path)
    assert caught.value.remedy == f"give {tmp_path / 'checkpoint-1000'}"
    folder_of(tmp_path, "config.json")  # with a model beside them that is taken
    assert locate(tmp_path) == tmp_path


def test_a_run_of_open_clip_is_told_how_its_last_checkpoint_is_given(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for name in ("epoch_9.pt", "epoch_10.pt", "epoch_latest.pt"):
        (checkpoints / name).write_bytes(b"never read")
    for folder in (tmp_path, checkpoints):
        with pytest.raises(ModelError, match="is a run of open_clip") as caught:
            locate(folder)
        assert f"open_clip:ARCHITECTURE/{checkpoints / 'epoch_10.pt'} with" in str(caught.value.remedy)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".pkl", ".ckpt"])
def test_a_bare_checkpoint_is_told_how_to_become_a_folder(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"never read")
    with pytest.raises(ModelError, match="is a file, not a model folder") as caught:
        locate(path)
    assert "write it as a folder with safetensors" in str(caught.value.remedy)


def test_a_file_of_a_model_folder_is_told_to_be_in_one(tmp_path: Path) -> None:
    folder_of(tmp_path, "config.json")
    with pytest.raises(ModelError, match="is a file") as caught:
        locate(tmp_path / "config.json")
    assert caught.value.remedy == "give the folder that holds it"


@pytest.mark.parametrize(
    "name", ["a/b/c", "./nowhere", "../m", "/no/such/folder", "org/name.safetensors", "weights.PTH", "faq.csv", " "]
)
def test_what_can_be_no_hub_id_is_not_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*args: object, **settings: object) -> None:
        raise AssertionError(f"the hub was asked for {args}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    with pytest.raises(ModelError, match="no such model folder"):
        locate(name)


@pytest.mark.parametrize("name", ["x" * 5000, "nul\0name", "~nobody-of-this-name/m"])
def test_a_name_that_no_disk_takes_is_one_line(name: str) -> None:
    with pytest.raises(ModelError, match=r"not a usable path|no such model folder") as caught:
        locate(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1600


@pytest.mark.parametrize(
    ("settings", "wanted", "left"),
    [
        ({}, "*.safetensors", ["*.py", "*.bin", "*.pt", "*.pkl"]),
        ({"trust_remote_code": True}, "*.py", ["*.bin", "*.pt"]),
        ({"allow_pickle": True}, "*.bin", ["*.py"]),
    ],
)
def test_code_and_pickles_are_not_even_downloaded_unless_allowed(
    settings: dict[str, bool], wanted: str, left: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def download(name: str, **known: object) -> str:
        calls.append((name, known))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert locate("hf-hub:org/name", "abc", **settings) == tmp_path
    ((name, known),) = calls
    assert (name, known["revision"], known["local_files_only"]) == ("org/name", "abc", False)
    assert wanted in known["allow_patterns"]
    assert {"onnx/*", "*.onnx", *left} <= set(known["ignore_patterns"])
    assert wanted not in known["ignore_patterns"]


def test_a_hub_id_is_said_before_it_is_fetched_and_a_files_own_is_not_fetched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    offline = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **known: offline.append(known["local_files_only"]) or tmp_path
    )
    monkeypatch.setattr("embedkit.formats.detect._TOLD", set())
    with caplog.at_level(logging.WARNING):
        locate("org/name")
    assert "org/name: no folder of this name, so taken for a hub id (revision main)" in caplog.text
    caplog.clear()
    locate("org/name")  # a run resolves its model when it is checked and when it is built
    locate("org/name", fetch=False)
    assert caplog.text == ""
    assert offline == [False, False, True]


@pytest.mark.parametrize("fetch", [True, False])
def test_what_the_hub_cannot_give_has_the_remedy_that_fits(fetch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ModelError, match=r"neither a folder here nor a model that the hub can give \(no route\)") as e:
        locate("org/name", fetch=fetch)
    assert e.value.remedy == (
        "check the name and the network, or name a folder" if fetch else "fetch it once: hf download org/name"
    )


# --- whose folder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MARKS)
def test_one_mark_is_one_library(tmp_path: Path, name: str) -> None:
    assert reader_of(folder_of(tmp_path, MARKS[name])).name == name


def test_of_several_marks_the_library_that_says_most_reads(tmp_path: Path) -> None:
    left = dict(MARKS)
    folder_of(tmp_path, *left.values())
    while left:  # each folder of a later library is part of one of an earlier library's
        name = next(iter(left))
        assert reader_of(tmp_path).name == name
        (tmp_path / left.pop(name)).unlink()


def test_a_folder_named_like_a_mark_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ModelError, match=r"it holds config.json\)"):
        reader_of(tmp_path)


def test_no_model_folder_names_each_mark_and_some_of_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"\(it holds nothing\)") as caught:
        reader_of(tmp_path)
    assert all(mark in str(caught.value) for mark in MARKS.values())
    for number in range(9):
        (tmp_path / f"photo{number}.jpg").write_bytes(b"")
    with pytest.raises(ModelError, match=r"\(it holds photo0.jpg, photo1.jpg, .*photo4.jpg\)"):
        reader_of(tmp_path)


# --- inspect ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["0_Transformer", "x/model", "models--a--b/snapshots/0123"])
def test_a_model_that_lies_deeper_is_named(
    tmp_path: Path, inner: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = StaticEncoder(tokenizer(), dim=4).save(Path("m", inner))
    Path("texts.txt").write_text("a\nb\n")
    line = f"m: not a model folder; a model lies inside it; give {Path('m', inner)}"
    for words in (["doctor", "m"], ["encode", "m", "texts.txt", "out.npy"]):
        assert main(words) == 2
        assert line in capsys.readouterr().err
    assert main(["doctor", str(model)]) == 0
    shutil.copytree(model, "m/other")
    with pytest.raises(ModelError, match=r"2 models lie inside it; give one of m/.*, m/"):
        inspect(Path("m"))


def test_a_folder_of_data_beside_a_model_is_no_model_that_is_missed(tmp_path: Path) -> None:
    StaticEncoder(tokenizer(), dim=4).save(tmp_path / "run" / "model")
    (tmp_path / "run" / "log.jsonl").write_text("{}")
    with pytest.raises(ModelError, match="a model lies inside it"):
        examine(tmp_path)
    (tmp_path / "faq.csv").write_text("question,answer\na,b\n")
    assert examine(tmp_path).kind == "data"


def test_a_plan_says_what_the_folder_says(tmp_path: Path) -> None:
    from embedkit.models.heads.layers import Dense

    prompts = {"query": "who ", "doc": "the "}
    tiny.model_folder(
        tmp_path / "m", pooling="cls", dense=[Dense(32, 8), Dense(8, 4, train_only=True)], max_length=20,
        normalize=False, prompts=prompts, default_prompt="doc",
    )  # fmt: skip
    own = inspect(tmp_path / "m")
    assert (own.kind, own.origin, own.weights, own.notes) == ("text", "embedkit", tmp_path / "m", [])
    (tmp_path / "m" / "embedkit.json").unlink()
    other = inspect(tmp_path / "m")
    assert other.origin == "sentence-transformers"
    for plan in (own, other):
        found = {key: plan.spec[key] for key in ("pooling", "max_length", "normalize", "default_prompt")}
        assert found == {"pooling": "cls", "max_length": 20, "normalize": False, "default_prompt": "doc"}
        assert plan.spec["prompts"] == prompts
        assert [(folder, layer["outputs"]) for folder, layer in plan.dense] == [(tmp_path / "m" / "2_Dense", 8)]
        assert (plan.own_length, plan.own_pooling) == (20, "cls")
    assert [len(plan.train_only) for plan in (own, other)] == [1, 0]  # the other library has no such layers


@pytest.mark.parametrize("value", [[], "text", 3, None, {"spec": 1, "format": 1, "kind": "text"}])
def test_a_description_of_the_wrong_shape_is_the_folders_fault(tmp_path: Path, value: object) -> None:
    folder = tiny.model_folder(tmp_path / "m")
    (folder / "embedkit.json").write_text(json.dumps(value))
    with pytest.raises(ModelError) as caught:
        inspect(folder)
    assert str(folder) in str(caught.value)
    assert caught.value.remedy


def test_routes_of_a_library_without_routes(tmp_path: Path) -> None:
    folder = tiny.model_folder(tmp_path / "m")
    for mark in ("embedkit.json", "modules.json"):
        with pytest.raises(ModelError, match="has no routes; leave route out"):
            inspect(folder, route="query")
        (folder / mark).unlink()
    with pytest.raises(ModelError, match="has no routes; leave route out"):
        inspect(folder, route="query")


def test_code_of_a_tokenizer_in_a_folder_of_its_own_is_seen(tmp_path: Path) -> None:
    """An adapter's folder brings its tokenizer, whose configuration may name code too."""
    base = tiny.model_folder(tmp_path / "base")
    adapter = tiny.tokenizer_folder(tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)})
    )
    (adapter / "adapter_model.safetensors").write_bytes(b"not read here")
    assert inspect(adapter).tokenizer == adapter
    path = adapter / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": ["own.Words", None]}}))
    with pytest.raises(UnsafeFileError, match=r"adapter/tokenizer_config.json: the model brings its own code"):
        inspect(adapter)
    assert inspect(adapter, trust_remote_code=True).weights == base


def test_nothing_heavy_is_imported_to_inspect_a_good_folder(tmp_path: Path) -> None:
    tiny.model_folder(tmp_path / "m")
    code = (
        "import sys\nfrom pathlib import Path\nfrom embedkit.formats.detect import inspect\n"
        "for mark in ('embedkit.json', 'modules.json', 'config_sentence_transformers.json'):\n"
        "    print(inspect(Path(sys.argv[1])).origin)\n"
        "    (Path(sys.argv[1]) / mark).unlink()\n"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m")], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["embedkit", "sentence-transformers", "transformers"]


def test_the_model_of_a_run_that_was_stopped_is_told_apart_from_a_wrong_path(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ModelError, match="the run has not written its model") as caught:
        locate(tmp_path / "model")
    assert "--resume" in str(caught.value.remedy)
