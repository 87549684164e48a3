"""The model card in the hub's format, and what it keeps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from embedkit.errors import ModelError
from embedkit.evaluation import evaluate
from embedkit.evaluation.report.card import write_card
from tests.evaluation.toys import Described, sts_folder

OWN = {
    "kind": "text",
    "hash": "abc",
    "spec": {"pooling": "mean", "max_length": 32, "prompts": {}},
    "recipe": {
        "name": "my-run",
        "description": "Pairs of mine.",
        "seed": 3,
        "model": {"name": "base", "revision": None},
    },
}


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "embedkit.json").write_text(json.dumps(OWN))
    return folder


def test_card_is_read_by_the_hub_library(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = sts_folder(tmp_path / "data", ["stsb", "sts12"])
    report = evaluate(Described(), "sts", data, ["stsb", "sts12"], resamples=20)
    path = write_card(_folder(tmp_path), [report])
    card = hub.ModelCard.load(path)
    assert card.data.library_name == "embedkit"  # nothing but embedkit.json lies in the folder
    assert card.data.base_model == "base"
    found = {result.dataset_type: result for result in card.data.eval_results}
    assert set(found) == {"stsb", "sts12"}
    for task, result in found.items():
        assert result.metric_value == pytest.approx(report.scores[task], abs=1e-3)
        assert result.metric_type == "spearman"
        assert result.task_type == "semantic-similarity"
        assert result.dataset_revision == report.settings["data"][task]["sha256"]
    text = path.read_text()
    for said in (
        "# my-run",
        "Pairs of mine.",
        "pooling: mean",
        "seed: 3",
        f"| stsb | spearman | {report.scores['stsb']:.2f} |",
    ):
        assert said in text
    assert "revision: null" not in text


def test_card_without_results_has_no_model_index(tmp_path: Path) -> None:
    text = write_card(_folder(tmp_path)).read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert "model-index" not in front
    assert front["tags"][0] == "embedkit"
    assert "## Evaluation" not in text


def test_own_text_is_renewed_and_a_users_text_is_kept(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    report = evaluate(Described(), "sts", sts_folder(tmp_path / "data", ["stsb"]), ["stsb"], resamples=0)
    path = write_card(folder)
    write_card(folder, [report])
    assert "## Evaluation" in path.read_text()
    path.write_text("---\ntags: [old]\n---\n\n# Mine\n\nMy words.\n")
    write_card(folder, [report])
    text = path.read_text()
    assert text.endswith("---\n\n# Mine\n\nMy words.\n")
    assert "model-index" in text
    assert "old" not in text


@pytest.mark.parametrize("content", [None, "[]", "{"])
def test_only_model_folders_get_a_card(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "embedkit.json").write_text(content)
    with pytest.raises(ModelError, match="not a model folder"):
        write_card(tmp_path)
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("org/base", "org/base"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("/home/someone/models/base", None),
        ("open_clip:ViT-B-32/openai", None),
        (None, None),
    ],
)
def test_the_base_model_is_a_hub_id_or_nothing(base: str | None, expected: str | None, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    own = {**OWN, "recipe": {**OWN["recipe"], "model": {"name": base}}}  # type: ignore[dict-item]
    (folder / "embedkit.json").write_text(json.dumps(own))
    text = write_card(folder).read_text()
    assert yaml.safe_load(text.split("---\n")[1]).get("base_model") == expected
    assert "/home/someone" not in text


def test_a_local_base_hands_on_its_own_base_and_license(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\nbase_model: org/original\n---\n\n# Base\n")
    own = {**OWN, "recipe": {**OWN["recipe"], "model": {"name": str(base)}}}  # type: ignore[dict-item]
    folder = _folder(tmp_path)
    (folder / "embedkit.json").write_text(json.dumps(own))
    front = yaml.safe_load(write_card(folder).read_text().split("---\n")[1])
    assert (front["base_model"], front["license"]) == ("org/original", "mit")


@pytest.mark.parametrize(
    ("kind", "files", "library", "snippets"),
    [
        ("text", ["modules.json", "config.json", "model.safetensors"], "sentence-transformers",
         {"embedkit", "sentence_transformers"}),
        ("text", [], "embedkit", {"embedkit"}),
        ("dual", [], "embedkit", {"embedkit"}),
        ("dual", ["open_clip_config.json"], "open_clip", {"embedkit", "open_clip"}),
        ("dual", ["config.json", "model.safetensors"], "transformers", {"embedkit", "transformers"}),
    ],
)  # fmt: skip
def test_snippets_are_those_of_libraries_that_can_read_the_folder(
    kind: str, files: list[str], library: str, snippets: set[str], tmp_path: Path
) -> None:
    folder = _folder(tmp_path)
    (folder / "embedkit.json").write_text(json.dumps({**OWN, "kind": kind}))
    for name in files:
        (folder / name).write_text("{}")
    text = write_card(folder).read_text()
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == library
    lines = set(re.findall(r"^(?:import|from) (\w+)", text, re.M))
    assert lines == snippets
    assert "YOUR-NAME/my-run" in text
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        compile(block, "card", "exec")


def test_the_card_tells_rows_and_held_out_scores_of_the_run(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (tmp_path / "samples.json").write_text(json.dumps({"trained": 12000, "skipped": {"blank text": 3}}))
    held = {"metric": "recall@1", "kind": "pairs", "rows": 60, "before": 61.2, "after": 74.5}
    (tmp_path / "holdout.json").write_text(json.dumps(held))
    text = write_card(folder).read_text()
    assert "12,000 training rows" in text
    assert "On 60 pairs that were held out of training: recall@1 74.50 (before training 61.20)." in text


@pytest.mark.parametrize("smoke", [True, False])
def test_a_smoke_run_is_called_one(smoke: bool, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    train = {"max_steps": 2 if smoke else 2000}
    recipe = {**OWN["recipe"], "train": train, "smoke": {"train.max_steps": 2}}  # type: ignore[dict-item]
    (folder / "embedkit.json").write_text(json.dumps({**OWN, "recipe": recipe}))
    text = write_card(folder).read_text()
    assert ("This was a smoke run" in text) == smoke
    assert "train.max_steps" not in text
