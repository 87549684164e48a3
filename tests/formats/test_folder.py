"""Files of a model folder: read with the file named, written whole or not at all, nothing outside of it touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embedkit.errors import DiskError, ModelError, UnsafeFileError
from embedkit.formats.folder import FolderPlan, Settings, inside, model_type, read_json, write_folder, write_json

# --- settings that remember who read them ----------------------------------------------------------------------------


def test_a_setting_counts_as_read_whichever_way_it_is_asked_for() -> None:
    settings = Settings({"a": 1, "b": 2, "c": 3, "d": 4}, Path("config.json"))
    assert settings.unread() == ["a", "b", "c", "d"]
    assert (settings["a"], settings.get("b"), settings.get("z", 9)) == (1, 2, 9)
    settings.pass_over(["c", "not there"])
    assert settings.unread() == ["d"]


def test_looking_whether_a_key_is_there_is_not_reading_it() -> None:
    settings = Settings({"a": 1}, Path("config.json"))
    assert "a" in settings
    assert len(settings) == 1
    assert settings.unread() == ["a"]


@pytest.mark.parametrize("value", [None, {}, [], ""])
def test_an_empty_value_says_nothing_and_is_not_missed(value: Any) -> None:
    assert Settings({"a": value}, Path("x")).unread() == []


@pytest.mark.parametrize("value", [0, False, 0.0, "no", [0]])
def test_a_value_that_is_false_or_zero_says_something(value: Any) -> None:
    assert Settings({"a": value}, Path("x")).unread() == ["a"]


def test_a_missing_key_is_a_key_error_as_in_any_dict() -> None:
    with pytest.raises(KeyError):
        Settings({}, Path("x"))["a"]


# --- plans -----------------------------------------------------------------------------------------------------------


def plan(root: Path) -> FolderPlan:
    return FolderPlan(root, root, "text")


def test_keys_that_nobody_reads_become_one_note_a_file(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    write_json(tmp_path / "1_Pooling" / "config.json", {"known": 1, "colour": "réd", "long": "x" * 60})
    write_json(tmp_path / "config.json", {"known": 1})
    made = plan(tmp_path)
    for path in (tmp_path / "1_Pooling" / "config.json", tmp_path / "config.json"):
        assert made.settings(path)["known"] == 1
    made.close()
    short = json.dumps("x" * 60)[:37] + "..."
    assert made.notes == [f'1_Pooling/config.json: not used: colour = "réd", long = {short}']


def test_a_file_outside_the_root_is_noted_with_its_whole_path(tmp_path: Path) -> None:
    write_json(tmp_path / "other.json", {"a": 1})
    made = plan(tmp_path / "m")
    made.settings(tmp_path / "other.json")
    made.close()
    assert made.notes == [f"{tmp_path / 'other.json'}: not used: a = 1"]


def test_a_file_that_is_not_there_has_no_settings(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert made.settings(tmp_path / "no.json") == {}
    made.close()
    assert made.notes == []


def test_closing_keeps_what_the_folder_itself_said(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert (made.own_length, made.own_pooling) == (None, None)
    made.spec = {"max_length": 40, "pooling": "cls"}
    made.close()
    made.spec |= {"max_length": 10, "pooling": "mean"}  # what a caller wants instead
    assert (made.own_length, made.own_pooling) == (40, "cls")


def test_plans_share_no_lists(tmp_path: Path) -> None:
    first, second = plan(tmp_path), plan(tmp_path)
    first.notes.append("x")
    first.dense.append((None, {}))
    first.spec["a"] = 1
    assert (second.notes, second.dense, second.spec) == ([], [], {})


@pytest.mark.parametrize("text", ["[]", "3", '"text"', "null", "true"])
def test_settings_must_be_an_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ModelError, match="is no JSON object") as caught:
        plan(tmp_path).settings(path)
    assert caught.value.where == str(path)


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{'a': 1}", b"\xff\xfe{\x00", b'{"a": 1} more', b"[" * 100_000],
    ids=["empty", "cut", "python", "utf-16", "tail", "deep"],
)
def test_what_is_no_json_names_its_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is not valid JSON") as caught:
        read_json(path)
    assert (caught.value.where, caught.value.remedy) == (str(path), "write the folder again")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="file is missing; the model folder is incomplete"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ModelError, match=r"cannot be read \(Is a directory\)"):
        read_json(tmp_path / "config.json")


def test_json_is_written_for_people(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": "für", "a": [1, 2.5, None]})
    text = (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert text == '{\n  "b": "für",\n  "a": [\n    1,\n    2.5,\n    null\n  ]\n}\n'
    assert read_json(tmp_path / "a.json") == {"b": "für", "a": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "kind"),
    [('{"model_type": "bert"}', "bert"), ("{}", ""), ('{"model_type": null}', ""), ("[1]", ""), (None, "")],
)
def test_the_model_type_of_a_configuration(tmp_path: Path, content: str | None, kind: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert model_type(tmp_path) == kind


# --- paths of modules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", ".", "1_Pooling", "a/b", "a/../b", "./x"])
def test_paths_within_the_folder(tmp_path: Path, path: str) -> None:
    assert inside(tmp_path, path) == tmp_path / path


@pytest.mark.parametrize("path", ["..", "../x", "/etc", "a/../../x", "../m2"])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, path: str) -> None:
    root = tmp_path / "m"
    root.mkdir()
    (tmp_path / "m2").mkdir()  # a name that begins with the folder's own
    with pytest.raises(UnsafeFileError, match="leaves the model folder") as caught:
        inside(root, path, "embedkit.json")
    assert caught.value.where == str(root / "embedkit.json")


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "m"
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "own").symlink_to(root / "real")
    with pytest.raises(UnsafeFileError, match="'link' leaves the model folder"):
        inside(root, "link")
    assert inside(root, "own") == root / "own"


def test_a_model_folder_that_is_a_link_itself_has_its_modules_inside(tmp_path: Path) -> None:
    (tmp_path / "real" / "1_Pooling").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "link", "1_Pooling") == tmp_path / "link" / "1_Pooling"


# --- written in one step ---------------------------------------------------------------------------------------------


def filled(text: str = "new") -> Any:
    def fill(folder: Path) -> None:
        assert list(folder.iterdir()) == []  # whatever was there before, the new folder begins empty
        (folder / "own.json").write_text(text)

    return fill


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.mkdir() or filled("old")(p)])
def test_a_new_an_empty_and_an_own_folder_are_filled(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "m")
    assert write_folder(tmp_path / "m", filled(), ours="own.json", overwrite=False) == tmp_path / "m"
    assert (tmp_path / "m" / "own.json").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("ours", ["own.json", None])
def test_a_foreign_folder_and_a_file_are_kept(tmp_path: Path, ours: str | None) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.txt").write_text("x")
    (tmp_path / "f").write_text("x")
    for name, reason in (("m", "exists and was not written by embedkit"), ("f", "is a file")):
        with pytest.raises(ModelError, match=reason) as caught:
            write_folder(tmp_path / name, filled(), ours=ours, overwrite=False)
        assert "--overwrite" in str(caught.value.remedy)
    assert (tmp_path / "m" / "thesis.txt").read_text() == "x"
    assert (tmp_path / "f").read_text() == "x"


def test_overwrite_replaces_the_whole_folder(tmp_path: Path) -> None:
    (tmp_path / "m" / "deep").mkdir(parents=True)
    (tmp_path / "m" / "deep" / "x").write_text("x")
    write_folder(tmp_path / "m", filled(), ours=None, overwrite=True)
    assert [p.name for p in (tmp_path / "m").rglob("*")] == ["own.json"]


def test_an_error_while_filling_leaves_what_was_there(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", filled("old"), ours="own.json", overwrite=False)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ModelError("cannot be expressed")

    with pytest.raises(ModelError, match="cannot be expressed"):
        write_folder(tmp_path / "m", fail, ours="own.json", overwrite=False)
    assert {p.name: p.read_text() for p in (tmp_path / "m").iterdir()} == {"own.json": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_link_to_a_folder_of_ours_stays_a_link(tmp_path: Path) -> None:
    write_folder(tmp_path / "real", filled("old"), ours="own.json", overwrite=False)
    (tmp_path / "latest").symlink_to(tmp_path / "real")
    write_folder(tmp_path / "latest", filled(), ours="own.json", overwrite=False)
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "real" / "own.json").read_text() == "new"


def test_a_relative_path_and_one_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert write_folder("out/m", filled(), ours=None, overwrite=False) == tmp_path / "out" / "m"
    assert write_folder("~/m", filled(), ours=None, overwrite=False) == tmp_path / "home" / "m"


def test_a_place_that_takes_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="the model cannot be written"):
        write_folder("/proc/self/m", filled(), ours=None, overwrite=False)
