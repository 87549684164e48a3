"""Every setting of the model section is used or refused: the mechanism, and every field on every kind of model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import BaseModel

from embedkit.config.model import (
    FeatureConfig,
    HeadConfig,
    ImageTowerConfig,
    LoraConfig,
    ModelConfig,
    SequenceConfig,
    TextTowerConfig,
    TowersConfig,
)
from embedkit.errors import ModelError, UserError
from embedkit.factory import build
from embedkit.factory.settings import RecordedSettings, every_setting_used, refuse_unread, taken
from tests.helpers import dual, tiny

pytest.importorskip("open_clip")
pytest.importorskip("peft")
SHAPE = {"model_type": "bert", **tiny.CONFIGS["bert"]}


# the mechanism --------------------------------------------------------------------------------------------------------


def test_what_nobody_read_is_named() -> None:
    config = ModelConfig(name="x", pooling="cls", max_length=8)
    message = r"model\.pooling: has no effect on this model \(and model\.max_length\)"
    with pytest.raises(ModelError, match=message), every_setting_used(config, "model") as section:
        assert section.name == "x"


def test_what_equals_the_default_was_not_set() -> None:
    with every_setting_used(ModelConfig(name="x", pooling=None, ngrams=1, prompts={}), "model") as section:
        assert section.name == "x"


def test_sections_and_lists_inside_are_recorded_too() -> None:
    config = ModelConfig(name="x", head=[{"kind": "linear", "dim": 5}, {"dim": 7}], lora={"rank": 2, "alpha": 3.0})
    view: Any = RecordedSettings(config, "model")
    assert view.name == "x"
    assert [head.kind for head in view.head] == ["linear", "tanh"]
    assert view.head[1].dim == 7
    assert view.lora.rank == 2
    assert view.unread() == ["model.head[0].dim", "model.lora.alpha"]
    assert view.head[0].dim == 5
    assert view.lora.alpha == 3.0
    refuse_unread(view)


def test_a_section_that_nobody_opened_is_named_as_a_whole() -> None:
    view = RecordedSettings(ModelConfig(name="x", lora={"rank": 2}), "model")
    assert view.name == "x"
    assert view.unread() == ["model.lora"]


def test_a_property_of_a_section_reads_nothing() -> None:
    view: Any = RecordedSettings(TextTowerConfig(name="x"), "model.towers.text")
    assert view.has_origin
    assert view.unread() == ["model.towers.text.name"]


def test_taken_settings_count_as_read() -> None:
    view: Any = RecordedSettings(TextTowerConfig(name="x", pooling="cls"), "t")
    assert taken(view, ["name", "pooling", "max_length"]) == {"name": "x", "pooling": "cls"}
    assert view.unread() == []
    assert taken(TextTowerConfig(name="x"), ["name", "dim"]) == {"name": "x"}


def test_an_error_of_the_builder_comes_first() -> None:
    with pytest.raises(KeyError, match="inner"), every_setting_used(ModelConfig(name="x", pooling="cls"), "model"):
        raise KeyError("inner")


def test_what_is_read_elsewhere_is_no_error() -> None:
    with every_setting_used(ModelConfig(name="x", use_max_length=9), "model", ["use_max_length"]) as section:
        assert section.name == "x"


def test_remedy_for_a_setting_of_a_tower() -> None:
    settings: dict[str, Any] = {"image": {"size": "vit-nano-32"}, "text": {"size": "clip-text-nano"}, "dim": 8}
    with pytest.raises(ModelError, match=r"model\.pooling: has no effect .*it belongs to a tower: model\.towers\.text"):
        build(ModelConfig(kind="dual", towers=settings, pooling="cls"))


# every field on every kind of model -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("folders")
    tiny.tokenizer_folder(root / "tokenizer")
    tiny.model_folder(root / "text", prompts={"a": "the ", "b": "a "}, normalize=True)
    dual.text_tower("static").save(root / "static")
    dual.dual("bert", "clip").save(root / "dual")
    dual.dual("clip", "open_clip-vit").save(root / "open_clip")
    dual.dual("static", "timm-convnext").save(root / "convnext")
    from transformers import ViTConfig, ViTModel

    vit = {k: v for k, v in dual.IMAGES["vit"]["config"].items() if k != "model_type"}
    ViTModel(ViTConfig(**vit)).save_pretrained(root / "vit")
    return {path.name: str(path) for path in root.iterdir()}


def origins(folders: dict[str, str]) -> dict[str, dict[str, Any]]:
    """A base section for every way to a model."""
    words = {"tokenizer": folders["tokenizer"]}
    image = {"config": dict(dual.VIT)}
    return {
        "text folder": {"name": folders["text"]},
        "random text": {"config": SHAPE, **words},
        "static folder": {"kind": "static", "name": folders["static"]},
        "random static": {"kind": "static", "dim": 12, **words},
        "static with n-grams": {"kind": "static", "dim": 12, "ngrams": 2, **words},
        "linear map of vectors": {"kind": "feature", "feature": {"width": 6}},
        "residual map of vectors": {"kind": "feature", "feature": {"width": 6, "form": "residual"}},
        "mlp of vectors": {"kind": "feature", "feature": {"width": 6, "form": "mlp"}},
        "map of places": {"kind": "feature", "feature": {"width": 2, "waves": 4}},
        "convolutions over steps": {"kind": "sequence", "sequence": {"width": 6}},
        "layer of a recurrence": {"kind": "sequence", "sequence": {"width": 6, "form": "gru", "depth": 1}},
        "transformer over steps": {"kind": "sequence", "sequence": {"width": 6, "form": "transformer"}},
        "several modalities": {
            "kind": "multi", "dim": 12, "modalities": {
                "sound": {"kind": "feature", "feature": {"width": 6}}, "word": {"kind": "static", "dim": 8, **words}},
        },
        "dual folder": {"kind": "dual", "name": folders["dual"]},
        "dual folder of open_clip's": {"kind": "dual", "name": folders["open_clip"]},
        "dual folder of timm's": {"kind": "dual", "name": folders["convnext"]},
        "random dual": {"kind": "dual", "towers": {"text": {"config": SHAPE, **words}, "image": image, "dim": 16}},
        "dual of named sizes": {
            "kind": "dual",
            "towers": {"text": {"size": "clip-text-nano"}, "image": {"size": "vit-nano-32"}, "dim": 16},
        },
        "dual of folders": {
            "kind": "dual",
            "towers": {"text": {"name": folders["text"]}, "image": {"name": folders["vit"]}, "dim": 16},
        },
        "dual with a transformers image tower": {
            "kind": "dual",
            "towers": {
                "text": {"kind": "static", "dim": 12, **words}, "image": {"config": dual.IMAGES["vit"]["config"]},
                "dim": 16,
            },
        },
    }  # fmt: skip


# a value of each field that differs from any default and any base above
VALUES: dict[str, dict[str, Any]] = {
    "": {
        "revision": "abc", "tokenizer": "builtin", "pooling": "max", "head": [{"dim": 7}], "max_length": 9,
        "normalize": False, "prompts": {"z": "they "}, "default_prompt": "b", "dropout": 0.37, "lora": {"rank": 3},
        "dim": 20, "ngrams": 3, "buckets": 999, "feature": {"width": 5},
        "sequence": {"width": 5},
    },
    "feature": {
        "width": 5, "dim": 3, "form": "mlp", "hidden": 7, "depth": 2, "dropout": 0.37, "start": "orthogonal",
        "scaling": "center", "waves": 5,
    },
    "sequence": {
        "width": 5, "dim": 3, "form": "gru", "hidden": 24, "depth": 2, "heads": 2, "kernel": 5, "patch": 2,
        "dropout": 0.37, "scaling": "center",
    },
    "towers.text": {
        "revision": "abc", "tokenizer": "builtin", "pooling": "max", "max_length": 9, "prompts": {"z": "they "},
        "default_prompt": "b", "dropout": 0.37, "lora": {"rank": 3}, "dim": 20, "ngrams": 3, "buckets": 999,
        "projection": "mlp", "keep_positions": 4, "multi_prompt": ["{}", "no {}"],
    },
    "towers.image": {
        "revision": "abc", "quick_gelu": True, "pooling": "mean", "patch_dropout": 0.5, "freeze_batch_norm": True,
        "lora": {"rank": 3}, "preprocess": {"mean": [0.1, 0.2, 0.3]}, "projection": "mlp",
    },
}  # fmt: skip


def test_the_values_cover_every_field() -> None:
    sections: dict[str, type[BaseModel]] = {
        "": ModelConfig, "feature": FeatureConfig, "sequence": SequenceConfig, "towers.text": TextTowerConfig,
        "towers.image": ImageTowerConfig,
    }  # fmt: skip
    # they say which model it is, allow a way of reading it, or are read later
    origin = {
        "kind", "name", "config", "size", "towers", "modalities", "use_max_length", "allow_pickle", "trust_remote_code",
    }  # fmt: skip
    for where, section in sections.items():
        assert set(section.model_fields) - origin == set(VALUES[where]), where
    assert set(TowersConfig.model_fields) == {"text", "image", "dim"}
    assert set(HeadConfig.model_fields) == {"kind", "dim", "train_only"}
    assert set(LoraConfig.model_fields) == {"rank", "alpha", "dropout", "targets"}


def changed(base: dict[str, Any], where: str, key: str) -> dict[str, Any]:
    """The section with one more setting."""
    section = {**base}
    inner = section
    for part in filter(None, where.split(".")):
        inner[part] = {**inner.get(part, {})}
        inner = inner[part]
    inner[key] = VALUES[where][key]
    return section


OF_LAYERS = {"hidden", "depth", "dropout", "start"}


def fingerprint(model: Any) -> tuple[Any, ...]:
    """Whatever a setting can change in a model: settings, shapes, rates, what is trained, what is random."""
    rates = sorted(
        (name, float(module.p)) for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)
    )
    plain = sorted(
        (name, key, float(value)) for name, module in model.named_modules()
        for key, value in module.__dict__.items() if "dropout" in key and isinstance(value, float)
    )  # fmt: skip
    shapes = [(name, tuple(p.shape), p.requires_grad) for name, p in model.named_parameters()]
    image = model.image if model.kind == "dual" else None
    frozen = None if image is None else (image.freeze_batch_norm, image.patch_dropout)
    spec, weights = model.spec(), None
    if model.kind in ("feature", "sequence"):  # a spec has them all; what they make tells which have an effect
        spec = {key: value for key, value in spec.items() if key not in OF_LAYERS}
        weights = [float(p.detach().abs().sum()) for p in model.parameters()]
    return weights, spec, model.tokenizer_json(), model.prompts, model.default_prompt, rates, plain, shapes, frozen


ORIGINS = tuple(origins(dict.fromkeys(("tokenizer", "text", "static", "dual", "open_clip", "convnext", "vit"), "")))
_built: dict[str, tuple[Any, ...]] = {}


@pytest.mark.parametrize("origin", ORIGINS)
def test_every_field_has_an_effect_or_is_refused_by_its_key(origin: str, folders: dict[str, str]) -> None:
    base = origins(folders)[origin]
    plain = fingerprint(build(ModelConfig(**base), 0))
    effects, refusals = [], []
    for where, values in VALUES.items():
        if where and where.partition(".")[0] != {"dual": "towers"}.get(base.get("kind", ""), base.get("kind")):
            continue
        for key in values:
            if where in base and base[where].get(key) == values[key]:
                continue
            try:
                config = ModelConfig(**changed(base, where, key))
            except ValueError:  # the recipe's own check: told before anything
                refusals.append(f"{where}.{key}")
                continue
            try:
                model = build(config, 0)
            except UserError as error:
                message = str(error)
                assert key in message, message
                assert "\n" not in message
                refusals.append(f"{where}.{key}")
                continue
            assert fingerprint(model) != plain, f"{origin}: {where}.{key} changes nothing"
            effects.append(f"{where}.{key}")
    assert effects, origin
    assert refusals, origin


@pytest.mark.parametrize("key", ["hidden", "depth", "dropout", "start"])
def test_what_a_form_of_vectors_lacks_is_refused(key: str) -> None:
    section = {"width": 6, "form": "mlp" if key == "start" else "linear", key: VALUES["feature"][key]}
    with pytest.raises(ModelError, match=rf"model\.feature\.{key}: has no effect .*; leave it out, or set it to"):
        build(ModelConfig(kind="feature", feature=section))


@pytest.mark.parametrize("kind", ["text folder", "random text"])
def test_settings_of_static_models_on_text_models(kind: str, folders: dict[str, str]) -> None:
    for key in ("dim", "ngrams", "buckets"):
        with pytest.raises(ModelError, match=f"model.{key}: has no effect"):
            build(ModelConfig(**changed(origins(folders)[kind], "", key)))


def test_a_revision_belongs_to_hub_ids(folders: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=r"model\.revision: has no effect"):
        build(ModelConfig(name=folders["text"], revision="main"))


def test_a_tokenizer_beside_a_folder_is_refused(folders: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=r"model\.tokenizer: has no effect"):
        build(ModelConfig(name=folders["text"], tokenizer="builtin"))


def test_buckets_without_ngrams_are_refused(folders: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=r"model\.buckets: has no effect"):
        build(ModelConfig(kind="static", dim=4, tokenizer=folders["tokenizer"], buckets=10))


def test_a_tower_of_settings_that_do_not_go_together(folders: dict[str, str]) -> None:
    towers = {"text": {"kind": "static", "dim": 8}, "image": {"size": "vit-nano-32"}, "dim": 16}
    with pytest.raises(ModelError, match=r"model\.towers\.text: a static model from scratch needs"):
        build(ModelConfig(kind="dual", towers=towers))
    towers = {"text": {"config": SHAPE}, "image": {"size": "vit-nano-32"}, "dim": 16}
    with pytest.raises(ModelError, match=r"model\.towers\.text\.config needs model\.towers\.text\.tokenizer"):
        build(ModelConfig(kind="dual", towers=towers))


def test_the_default_prompt_may_be_one_of_the_folders(folders: dict[str, str]) -> None:
    model = build(ModelConfig(name=folders["text"], default_prompt="b"))
    assert model.default_prompt == "b"
    with pytest.raises(ModelError, match=r"model\.default_prompt: no prompt 'c'"):
        build(ModelConfig(name=folders["text"], default_prompt="c"))
    with pytest.raises(ModelError, match=r"model\.towers\.text\.default_prompt: no prompt 'c'"):
        build(ModelConfig(kind="dual", name=folders["dual"], towers={"text": {"default_prompt": "c"}}))


def test_prompts_for_a_loaded_dual_encoder_are_those_of_both(folders: dict[str, str]) -> None:
    towers = {"text": {"prompts": {"photo": "a photo of {}"}, "default_prompt": "photo"}}
    model = build(ModelConfig(kind="dual", name=folders["dual"], towers=towers))
    assert model.prompts == model.text.prompts == {"photo": "a photo of {}"}
    assert model.default_prompt == model.text.default_prompt == "photo"
