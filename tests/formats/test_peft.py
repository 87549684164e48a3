"""Adapters of peft: merged into a base model that is at hand, equal to peft's own vectors, or refused with a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedkit
from embedkit.errors import ModelError, UnsafeFileError
from tests.helpers import architectures, tiny

TEXTS = [text for text in tiny.SENTENCES if text]


def adapted(base: Path, path: Path, family: str, **settings: Any) -> np.ndarray:
    """Write a random adapter for `base` to `path`; mean-pooled or last-token vectors by peft."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModel, AutoModelForCausalLM

    causal = family in architectures.DECODERS
    load = AutoModelForCausalLM if causal else AutoModel
    options = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        task = "CAUSAL_LM" if causal else "FEATURE_EXTRACTION"
        model = peft.get_peft_model(load.from_pretrained(base), peft.LoraConfig(task_type=task, **options)).eval()
    model.save_pretrained(path)
    words, rows = tiny.tokenizer(), []
    with torch.inference_mode():
        for text in TEXTS:
            states = model(**words([text], return_tensors="pt"), output_hidden_states=True).hidden_states[-1][0]
            rows.append(states[-1] if causal else states.mean(0))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("family", ["bert", "qwen3"])
@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_a_bare_adapter_folder_is_merged_into_its_base(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    base = architectures.encoder_folder(family, tmp_path / "base")
    expected = adapted(base, tmp_path / "adapter", family, **settings)
    model = embedkit.load(tmp_path / "adapter", device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=2e-5)
    assert not np.allclose(embedkit.load(base, device="cpu").encode(TEXTS), expected, atol=1e-2)
    model.save(tmp_path / "merged")
    np.testing.assert_allclose(embedkit.load(tmp_path / "merged", device="cpu").encode(TEXTS), expected, atol=2e-5)


def test_an_adapter_in_a_sentence_transformers_folder(tmp_path: Path) -> None:
    module, peft = pytest.importorskip("sentence_transformers"), pytest.importorskip("peft")
    base = architectures.encoder_folder("bert", tmp_path / "base")
    model = module.SentenceTransformer(str(base), device="cpu")
    model.add_adapter(peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules=["query", "value"],
                                      init_lora_weights=False))  # fmt: skip
    model.save(str(tmp_path / "m"))
    assert (tmp_path / "m" / "adapter_config.json").is_file()
    expected = model.encode(TEXTS, batch_size=1, show_progress_bar=False)
    merged = embedkit.load(tmp_path / "m", device="cpu")
    np.testing.assert_allclose(merged.encode(TEXTS), expected, atol=2e-5)
    assert all(parameter.requires_grad for parameter in merged.parameters()), "peft leaves the base frozen"


def test_a_base_beside_the_adapter_is_found_by_its_relative_path(tmp_path: Path) -> None:
    base = architectures.encoder_folder("bert", tmp_path / "base")
    expected = adapted(base, tmp_path / "adapter", "bert")
    edit(tmp_path / "adapter", base_model_name_or_path="../base")
    np.testing.assert_allclose(embedkit.load(tmp_path / "adapter", device="cpu").encode(TEXTS), expected, atol=2e-5)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_refusals_name_the_way_out(tmp_path: Path) -> None:
    base = architectures.encoder_folder("bert", tmp_path / "base")
    adapted(base, tmp_path / "a", "bert")
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"base_model_name_or_path": "nobody/no-base"}, ModelError, "hf download nobody/no-base"),
        ({"base_model_name_or_path": ""}, ModelError, "names no base model"),
        ({"peft_type": "PREFIX_TUNING"}, ModelError, "cannot be merged"),
        ({"init_lora_weights": "pissa_niter_4"}, ModelError, "never the same twice"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, UnsafeFileError, "names a module to import"),
    ]
    for number, (changes, error, message) in enumerate(cases):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "a", folder)
        edit(folder, **changes)
        with pytest.raises(error, match=message):
            embedkit.load(folder)
    (tmp_path / "a" / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(UnsafeFileError, match=r"no adapter_model.safetensors"):
        embedkit.load(tmp_path / "a")


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    adapted(architectures.encoder_folder("bert", tmp_path / "base"), tmp_path / "a", "bert")
    edit(tmp_path / "a", base_model_name_or_path=str(architectures.encoder_folder("mpnet", tmp_path / "other")))
    with pytest.raises(ModelError):
        embedkit.load(tmp_path / "a")
