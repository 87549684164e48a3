"""The model card in the hub's format, and what it keeps."""

from __future__ import annotations

import json
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
    assert card.data.library_name == "sentence-transformers"
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
