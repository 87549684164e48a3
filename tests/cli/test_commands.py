"""Each command does what it says, on the smoke size of shipped recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.cli.recipes import listing
from embedkit.config.recipe_io import GROUPS, grouped_recipes, load_recipe
from embedkit.config.resources import recipe_names, recipe_path, suite_names
from embedkit.factory import build
from tests.helpers import image_data


def json_of(tmp_path: Path, *words: str) -> Any:
    """What a command writes with --json; the command must succeed."""
    target = tmp_path / "out.json"
    assert main([*words, "--json", str(target)]) == 0
    return json.loads(target.read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The smoke run of the quickstart recipe by the command line: its folder and its JSON."""
    folder = tmp_path_factory.mktemp("cli")
    result = json_of(folder, "train", "quickstart", "--smoke", "--output", str(folder / "run"))
    return folder / "run", result


def test_train_writes_a_model_and_its_figures(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, result = trained
    assert result["steps"] == 4 and result["loss"] > 0
    assert Path(result["output"]) == folder / "model"
    model = embedkit.load(result["output"])
    assert model.encode(["the chef buys the red car"]).shape == (1, model.dim)


def test_train_refuses_a_used_folder_and_resumes(trained: tuple[Path, Any], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = trained
    assert main(["train", "quickstart", "--smoke", "--output", str(folder)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", "quickstart", "--smoke", "--output", str(folder), "--resume", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert "all 4 steps are done" in err and "nothing is left to train" in err and "4 steps; model in" in err
    assert json.loads(out, parse_constant=pytest.fail)["loss"] is None, "no step was left, so there is no loss"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_shrinks(name: str, tmp_path: Path) -> None:
    written = json_of(tmp_path, "validate", name)
    assert written["name"] == name and written["description"] and written["smoke"]
    assert json_of(tmp_path, "validate", name, "--smoke")["train"]["max_steps"] < 50


def test_overrides_win_over_recipe_and_smoke(tmp_path: Path) -> None:
    words = ["validate", "quickstart", "--smoke", "train.lr=0.5", "train.max_steps=7"]
    facts = json_of(tmp_path, *words)
    assert facts["train"]["lr"] == 0.5 and facts["train"]["max_steps"] == 7 and facts["train"]["batch_size"] == 16


def test_plan_counts_what_the_recipe_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json_of(tmp_path, "plan", "quickstart")
    recipe = load_recipe("quickstart")
    assert facts["rows"]["rows"] == 20_000
    assert facts["steps"]["total"] == 20_000 // recipe.train.batch_size
    assert facts["negatives"]["in_batch"] == recipe.train.batch_size - 1 and facts["negatives"]["hard"] == 0
    shown = capsys.readouterr().out
    for word in ("negatives", "parameters", "builtin-sts/graded", "20,000"):
        assert word in shown
    assert len(shown.strip().splitlines()) < 16, "a page that one reads at a glance"
    assert main(["plan", "quickstart", "--all"]) == 0
    assert "weight decay" in capsys.readouterr().out
    with_negatives = json_of(tmp_path, "plan", "quickstart", "data.train=[{path: 'builtin:triplets-train'}]")
    assert with_negatives["negatives"]["hard"] == recipe.train.batch_size
    assert with_negatives["negatives"]["total"] == 2 * recipe.train.batch_size - 1


def test_eval_scores_a_model(trained: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, result = trained
    report = json_of(tmp_path, "eval", result["output"], "--suite", "builtin-sts")
    assert report["suite"] == "builtin-sts" and {"graded", "avg"} == set(report["scores"])
    assert f"{report['scores']['graded']:.2f}" in capsys.readouterr().out
    assert report["interval"] is None
    words = ["eval", result["output"], "--suite", "builtin-sts", "--intervals", "--dim", "8", "--tasks", "graded"]
    low, high = json_of(tmp_path, *words)["tasks"]["graded"]["interval"]
    assert low < high and f"{low:.2f} to {high:.2f}" in capsys.readouterr().out
    dev = json_of(tmp_path, "eval", result["output"], "--suite", "builtin-sts", "--split", "dev")
    assert dev["scores"]["graded"] != report["scores"]["graded"]


def test_eval_refuses_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["eval", str(tmp_path / "empty"), "--suite", "builtin-sts"]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / "empty") in err and err.count("\n") == 1


def test_recipes_prints_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "quickstart"]) == 0
    line, text = recipe_path("quickstart").read_text().split("\n", 1)
    assert line.startswith("# yaml-language-server") and capsys.readouterr().out == text  # it names a file beside it


@pytest.mark.parametrize("name", ["simcse-unsup-mlm-roberta-base", "pairs", "sct-distil-tiny"])
def test_a_printed_recipe_is_a_start_in_any_folder(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, words in {"mine.yaml": [], "whole.yaml": ["--resolved"]}.items():
        assert main(["recipes", name, *words]) == 0
        Path(file).write_text(capsys.readouterr().out)
        assert ("extends:" in Path(file).read_text()) == (not words)
        for smoke in (False, True):
            assert load_recipe(file, smoke=smoke) == load_recipe(name, smoke=smoke)
        assert main(["validate", file]) == 0
        capsys.readouterr()


def test_resolved_needs_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--resolved"]) == 2
    assert "needs the NAME" in capsys.readouterr().err


def test_recipes_lists_all(tmp_path: Path) -> None:
    rows = json_of(tmp_path, "recipes")
    assert [row["name"] for row in rows] == recipe_names()
    assert all(row["description"] for row in rows)
    own = [row["name"] for row in rows if row["group"] == "own-data"]
    assert {"pairs", "scored-pairs", "simcse-unsup", "simcse-sup", "clip-small", "simclr", "quickstart"} <= set(own)
    for row in rows:  # another backbone, whatever it is a variant of
        if row["name"].endswith(("-bert-large", "-roberta-base", "-roberta-large")):
            assert row["group"] == "variants", row["name"]


def test_recipes_are_listed_in_groups_a_line_each_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    headings = [line for line in lines[1:] if line and not line.startswith(" ")]
    assert headings == list(GROUPS.values()) and headings[0] == "For your own data"
    rows = [line.split(maxsplit=1) for line in lines if line.startswith("  ")]
    assert sorted(name for name, _ in rows) == sorted(recipe_names())
    for name, shown in rows:
        whole = load_recipe(name).description
        assert len(shown) >= 8 and whole.startswith(shown.removesuffix(" ..."))
        assert shown.count("(") == shown.count(")")


@pytest.mark.parametrize("width", [50, 80, 200])
def test_recipes_fill_the_terminal_and_no_more(width: int) -> None:
    lines = list(listing(grouped_recipes(), width))[1:]  # but for the line about the command
    assert max(map(len, lines)) <= width
    if width == 200:
        descriptions = {recipe.description for _, recipe in grouped_recipes()}
        assert {line.split(maxsplit=1)[1] for line in lines if line.startswith("  ")} == descriptions


def test_methods_lists_roles_and_papers(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in json_of(tmp_path, "methods")}
    assert rows["simcse-unsup"]["needs"] == ["anchor"]
    assert "negatives" in rows["pairs"]["uses"] and "positive" in rows["pairs"]["needs"]
    assert all(row["paper"] for row in rows.values())


def test_methods_shows_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json_of(tmp_path, "methods", "pairs")
    assert facts["objective"] == "infonce" and "prompts" in facts["settings"]
    assert "needs: anchor, positive" in capsys.readouterr().out


def test_warnings_come_first_in_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"question number {i},the answer {i}\n" for i in range(60))
    (tmp_path / "faq.csv").write_text("question,answer\n" + rows)
    recipe = load_recipe("quickstart")
    model = build(recipe.model, 0)
    model.save(tmp_path / "m")
    words = ["plan", "pairs", str(tmp_path / "faq.csv"), f"model={tmp_path / 'm'}", "lr=1e-4"]
    facts = json_of(tmp_path, *words)
    assert facts["rows"]["rows"] + facts["rows"]["held_out"] == 60
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pairs: pairs with infonce")
    warnings = [line for line in lines if line.startswith("! ")]
    assert lines[1 : 1 + len(warnings)] == warnings
    assert any("train.batch_size is 8 here" in warning for warning in warnings)
    assert (
        lines[1 + len(warnings)]
        == facts["summary"]
        == "54 rows; 6 steps of 8 rows (1 epoch); 6 held out; " + ("6 rows left over in each epoch")
    )
    notes = [line for line in lines if line.startswith("- ")]
    assert notes[0] == "- lr is read as train.lr" and "question is the anchor" in notes[1] and len(notes) == 2
    assert lines[-1 - len(notes) : -1] == notes
    assert not any("left over" in line or "fit into no batch" in line for line in warnings), "the summary says it"


@pytest.mark.parametrize("kind", ["scored", "images", "stream"])
def test_the_page_of_other_data_says_what_it_does_not_know(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    build(load_recipe("quickstart").model, 0).save("m")
    if kind == "images":
        image_data.write_csv(tmp_path, image_data.samples(30))
        words = ["clip-small", "captions.csv", f"model={json.dumps(image_data.DUAL)}", "train.holdout=0.05"]
        wanted = [
            "memory         about ", "of which activations ",
            "evaluation     nothing is held out: 5% of 30 rows are fewer than 4; train.holdout=0.14 holds out so many",
        ]  # fmt: skip
    elif kind == "scored":
        rows = "".join(f"a cat {i},the dog {i},{i % 5}\n" for i in range(60))
        Path("sts.csv").write_text("sentence1,sentence2,score\n" + rows)
        words = ["scored-pairs", "sts.csv", "model=m", "evaluation={suite: builtin-sts}", "train.holdout=0.1"]
        wanted = [
            "negatives      none: this objective sets no other row against an anchor",
            "chooses the checkpoint; the held-out rows, before and after training",
        ]  # fmt: skip
    else:
        for name in ("a", "b"):
            rows = "".join(json.dumps({"anchor": f"{name} {i}", "positive": f"the dog {i}"}) + "\n" for i in range(80))
            Path(f"{name}.jsonl").write_text(rows)
        sources = "data.train=[{path: a.jsonl, stream: true}, {path: b.jsonl, stream: true}]"
        words = ["pairs", sources, "model=m", "train.max_steps=20"]
        wanted = [
            "a stream of rows; 20 steps of 64 rows\n", "data           a.jsonl, b.jsonl, read while training",
            "evaluation     nothing is held out of a stream: give an evaluation to see whether training helps",
        ]  # fmt: skip
    assert main(["plan", *words]) == 0
    shown = capsys.readouterr().out
    time = f"time           not known: {Path('runs') / words[0]} has no log of an earlier run to measure by"
    for line in (*wanted, time):
        assert line in shown, shown


def test_plan_tells_the_time_where_a_log_measured_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert json_of(tmp_path, "plan", "quickstart", "--smoke")["seconds"] is None
    assert "time           not known: runs/quickstart has no log" in capsys.readouterr().out
    Path("runs/quickstart").mkdir(parents=True)
    Path("runs/quickstart/log.jsonl").write_text(json.dumps({"step": 1, "sentences_per_s": 8.0}) + "\n")
    facts = json_of(tmp_path, "plan", "quickstart", "--smoke")
    assert facts["seconds"] == pytest.approx(facts["steps"]["total"] * facts["batch"]["inputs"] / 8.0)
    assert f"time           about {facts['seconds']:.0f} s by the log of the last run" in capsys.readouterr().out


def test_objectives_lists_and_shows_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [row["name"] for row in json_of(tmp_path, "objectives")]
    assert {"infonce", "cosent", "siglip"} <= set(names) and names == sorted(names)
    assert json_of(tmp_path, "objectives", "infonce")["settings"]["temperature"] == 0.05
    assert "temperature: 0.05" in capsys.readouterr().out


def test_suites_lists_all(tmp_path: Path) -> None:
    rows = json_of(tmp_path, "suites")
    assert [row["name"] for row in rows] == suite_names() and all(row["description"] for row in rows)


def test_quickstart_shows_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json_of(tmp_path, "quickstart", "--smoke", "--output", str(tmp_path / "run"))
    assert result["after"] > result["before"], "four steps already help"
    similarity = np.array(result["similarity"])
    assert similarity.shape == (3, 3) and np.allclose(np.diag(similarity), 1, atol=1e-5)
    shown = capsys.readouterr().out
    for sentence in result["sentences"]:
        assert sentence in shown
    vectors = embedkit.load(result["model"]).encode(result["sentences"])
    np.testing.assert_allclose(vectors @ vectors.T, similarity, atol=1e-5)


def test_quickstart_takes_a_free_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedkit.cli.quickstart import _free_folder

    monkeypatch.chdir(tmp_path)
    assert _free_folder() == Path("runs/quickstart")
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    assert _free_folder() == Path("runs/quickstart-2")


def test_encode_writes_one_vector_a_line(trained: tuple[Path, Any], tmp_path: Path) -> None:
    _, result = trained
    sentences = ["the chef buys the red car", "a dog", "the chef buys the red car"]
    (tmp_path / "in.txt").write_text("\n".join(sentences) + "\n")
    words = ["encode", result["output"], "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.npy")]
    assert json_of(tmp_path, *words)["rows"] == 3
    expected = embedkit.load(result["output"]).encode(sentences)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)
    assert main(words) == 2, "an output is not replaced unasked"
    assert main([*words, "--overwrite", "--truncate-dim", "8"]) == 0
    assert np.load(tmp_path / "out.npy").shape == (3, 8)


def test_encode_keeps_ids(trained: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    _, result = trained
    monkeypatch.chdir(tmp_path)
    rows = [{"_id": 7, "text": "a dog"}, {"_id": "x", "text": "a cat"}, {"_id": None, "text": "the end"}]
    Path("docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = json_of(tmp_path, "encode", result["output"], "docs.jsonl")
    assert Path(facts["output"]).name == "docs.npy" and facts["id_column"] == "_id"
    assert [json.loads(line) for line in Path("docs.ids.jsonl").read_text().splitlines()] == [7, "x", None]
    assert main(["encode", result["output"], "docs.jsonl", "docs.parquet", "--id-column", "text"]) == 0
    written = pq.read_table("docs.parquet")
    assert written["id"].to_pylist() == [row["text"] for row in rows]
    assert written.schema.names == ["row", "id", "embedding"]
    Path("plain.txt").write_text("a dog\na cat\n")
    assert main(["encode", result["output"], "plain.txt"]) == 0
    assert not Path("plain.ids.jsonl").exists()


def test_a_refused_prompt_leaves_nothing_behind(trained: tuple[Path, Any], tmp_path: Path) -> None:
    _, result = trained
    (tmp_path / "t.txt").write_text("a dog\n")
    assert main(["encode", result["output"], str(tmp_path / "t.txt"), str(tmp_path / "v.npy"), "--prompt", "nope"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


def test_encode_with_file_and_model_in_the_wrong_order(
    trained: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\n")
    model = trained[0] / "model"
    capsys.readouterr()
    assert main(["encode", str(texts), str(model), str(tmp_path / "v.npy")]) == 2
    assert f"write `embedkit encode {model} {texts}`" in capsys.readouterr().err


def test_export_writes_what_others_read(trained: tuple[Path, Any], tmp_path: Path) -> None:
    _, result = trained
    assert main(["export", result["output"], str(tmp_path / "tf"), "--format", "transformers"]) == 0
    from transformers import AutoModel

    assert AutoModel.from_pretrained(tmp_path / "tf").config.hidden_size == embedkit.load(result["output"]).dim
    assert main(["export", result["output"], str(tmp_path / "x"), "--format", "onx"]) == 2
    assert not (tmp_path / "x").exists()
    assert embedkit.export(result["output"], tmp_path / "tf2", format="transformers").is_dir()
