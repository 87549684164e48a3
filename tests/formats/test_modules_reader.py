"""Listings of sentence-transformers' modules: order, nesting, routes, settings; read or refused without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embedkit.errors import ModelError, UnsafeFileError
from embedkit.formats.folder import FolderPlan
from embedkit.formats.sentence_transformers.reader import plan_of_modules

Modules = list[tuple[str, str, dict[str, Any]]]
TEXT = ("Transformer", "", {})
POOLING = ("Pooling", "1_Pooling", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})


def folder_of(path: Path, modules: Modules, prefix: str = "sentence_transformers.models.", **settings: Any) -> Path:
    """A folder with a listing and the configuration of each module, and nothing else."""
    path.mkdir(parents=True, exist_ok=True)
    listing = [{"idx": i, "name": str(i), "path": place, "type": prefix + name}
               for i, (name, place, _) in enumerate(modules)]  # fmt: skip
    (path / "modules.json").write_text(json.dumps(listing))
    (path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    for name, place, config in modules:
        (path / place).mkdir(exist_ok=True)
        if name != "Transformer":
            (path / place / "config.json").write_text(json.dumps(config))
    (path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return path


def planned(path: Path, modules: Modules, **settings: Any) -> FolderPlan:
    return plan_of_modules(folder_of(path, modules, **settings))


# --- names and order -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    ["sentence_transformers.models.", "sentence_transformers.models.Module.", "sentence_transformers.base.modules.x."],
)
def test_classes_of_every_version(tmp_path: Path, prefix: str) -> None:
    plan = plan_of_modules(folder_of(tmp_path, [TEXT, POOLING], prefix))
    assert (plan.kind, plan.weights, plan.spec["pooling"], plan.spec["normalize"]) == ("text", tmp_path, "cls", False)


@pytest.mark.parametrize("prefix", ["", "other.", "sentence_transformersx.", "os.sentence_transformers."])
def test_classes_of_others_are_not_known_whatever_their_name(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(ModelError, match="is not known: code of its own, which is not run") as caught:
        plan_of_modules(folder_of(tmp_path, [TEXT, POOLING], prefix))
    assert ".npy" in str(caught.value.remedy)


def test_a_class_that_sentence_transformers_has_not_lists_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not known; known modules: Asym, CLIPModel, Dense"):
        plan_of_modules(folder_of(tmp_path, [TEXT, ("Whatever", "2_Whatever", {})]))


def dense(place: str, size: int, **more: Any) -> tuple[str, str, dict[str, Any]]:
    return ("Dense", place, {"in_features": 32, "out_features": size, **more})


def test_layers_keep_their_order_and_only_the_last_normalize_is_the_models(tmp_path: Path) -> None:
    modules = [TEXT, POOLING, ("Normalize", "2", {}), dense("3", 8), ("LayerNorm", "4", {"dimension": 8}),
               ("Normalize", "5", {})]  # fmt: skip
    plan = planned(tmp_path, modules)
    kinds = [settings.get("kind", "dense") for _, settings in plan.dense]
    assert kinds == ["unit-length", "dense", "layer-norm"]
    assert [folder and folder.name for folder, _ in plan.dense] == [None, "3", "4"]
    assert plan.spec["normalize"] is True


@pytest.mark.parametrize(
    "names",
    [["Pooling", "Transformer"], ["Transformer", "Dense", "Pooling"], ["Transformer", "Pooling", "Pooling"],
     ["Transformer", "Pooling", "Transformer"], ["StaticEmbedding", "Pooling"], ["Transformer", "StaticEmbedding"],
     ["Dense"], ["Normalize"], ["Transformer"]],
)  # fmt: skip
def test_orders_that_mean_something_else(tmp_path: Path, names: list[str]) -> None:
    modules: Modules = [(name, "" if name == "Transformer" else f"{i}", {}) for i, name in enumerate(names)]
    with pytest.raises(ModelError, match=f"modules in the order {', '.join(names)} are not supported"):
        planned(tmp_path, modules)


def test_a_dropout_is_left_out_and_told(tmp_path: Path) -> None:
    plan = planned(tmp_path, [TEXT, POOLING, ("Dropout", "2", {"dropout": 0.25})])
    assert plan.dense == []
    assert plan.notes == [
        "the Dropout module (rate 0.25) acts in training only and is left out; see model.dropout"
    ]  # fmt: skip


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "name"),
    [("torch.nn.modules.activation.Tanh", "tanh"), ("torch.nn.modules.linear.Identity", "identity"),
     ("torch.nn.modules.activation.GELU", "gelu"), (None, "tanh")],
)  # fmt: skip
def test_activations_of_dense_layers(tmp_path: Path, function: str | None, name: str) -> None:
    config = {} if function is None else {"activation_function": function}
    ((_, settings),) = planned(tmp_path, [TEXT, POOLING, dense("2", 8, **config)]).dense
    assert settings == {"inputs": 32, "outputs": 8, "bias": True, "activation": name, "train_only": False}


@pytest.mark.parametrize("function", ["os.system", "builtins.eval", "torchx.nn.Tanh", "my_module.Tanh", ""])
def test_functions_that_are_not_torchs_are_never_imported(tmp_path: Path, function: str) -> None:
    with pytest.raises(UnsafeFileError, match="none of torch's") as caught:
        planned(tmp_path, [TEXT, POOLING, dense("2", 8, activation_function=function)])
    assert caught.value.where == str(tmp_path / "2" / "config.json")


@pytest.mark.parametrize("name", ["Dense", "Normalize"])
@pytest.mark.parametrize("key", ["module_input_name", "module_output_name"])
def test_layers_on_tokens_are_refused(tmp_path: Path, name: str, key: str) -> None:
    config = {"in_features": 32, "out_features": 8}
    assert planned(tmp_path / "a", [TEXT, POOLING, (name, "2", {**config, key: "sentence_embedding"})])
    with pytest.raises(ModelError, match="token vectors"):
        planned(tmp_path / "b", [TEXT, POOLING, (name, "2", {**config, key: "token_embeddings"})])


# --- pooling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["mean", "cls"]}, "mean+cls"),
        ({"pooling_mode": "lasttoken", "pooling_mode_cls_token": True}, "last-token"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_cls_token": True}, "cls+last-token"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean-sqrt-len"),
        ({"pooling_mode_cls_token": False}, "mean"),
        ({}, "mean"),
    ],
)
def test_poolings_by_name_and_by_flag(tmp_path: Path, config: dict[str, Any], pooling: str) -> None:
    assert planned(tmp_path, [TEXT, ("Pooling", "1", config)]).spec["pooling"] == pooling


@pytest.mark.parametrize(("include", "spec"), [(True, None), (False, False), (None, False)])
def test_whether_the_prompt_is_pooled(tmp_path: Path, include: bool | None, spec: bool | None) -> None:
    plan = planned(tmp_path, [TEXT, ("Pooling", "1", {"include_prompt": include})])
    assert plan.spec.get("pool_prompt") is spec


# --- models within models --------------------------------------------------------------------------------------------


def test_a_model_within_a_model_and_a_way_out_of_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", [("SentenceTransformer", "0_Inner", {}), dense("1", 8)])
    folder_of(folder / "0_Inner", [TEXT, POOLING])
    plan = plan_of_modules(folder)
    assert plan.weights == folder / "0_Inner"
    assert [settings["outputs"] for _, settings in plan.dense] == [8]
    listing = json.loads((folder / "0_Inner" / "modules.json").read_text())
    listing[1]["path"] = "../../outside"
    (folder / "0_Inner" / "modules.json").write_text(json.dumps(listing))
    with pytest.raises(UnsafeFileError, match=r"module path '\.\./\.\./outside' leaves the model folder"):
        plan_of_modules(folder)


def router(path: Path, routes: dict[str, list[str]], types: dict[str, str]) -> Path:
    folder = folder_of(path, [("Router", "", {})])
    saved = {"structure": routes, "types": {part: f"sentence_transformers.models.{t}" for part, t in types.items()}}
    (folder / "router_config.json").write_text(json.dumps(saved))
    for part, name in types.items():
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps({"in_features": 4, "out_features": 2} if name == "Dense"
                                                              else {"model_type": "bert"}))  # fmt: skip
    return folder


TYPES = {"a": "Transformer", "b": "Pooling", "c": "Dense"}


def test_each_route_is_its_own_modules(tmp_path: Path) -> None:
    folder = router(tmp_path, {"query": ["a", "b", "c"], "document": ["a", "b"]}, TYPES)
    assert len(plan_of_modules(folder, "query").dense) == 1
    assert len(plan_of_modules(folder, "document").dense) == 0
    with pytest.raises(ModelError, match=r"different modules \(query, document\)") as caught:
        plan_of_modules(folder)
    assert "route='query'" in str(caught.value.remedy)
    with pytest.raises(ModelError, match="has no route 'querry'; did you mean 'query'"):
        plan_of_modules(folder, "querry")


def test_equal_routes_need_no_name(tmp_path: Path) -> None:
    folder = router(tmp_path, {"query": ["a", "b"], "document": ["a", "b"]}, TYPES)
    assert plan_of_modules(folder).weights == folder / "a"


def test_a_route_out_of_the_folder_and_a_router_without_its_file(tmp_path: Path) -> None:
    folder = router(tmp_path / "m", {"query": ["a", "../b"]}, {"a": "Transformer"})
    saved = json.loads((folder / "router_config.json").read_text())
    saved["types"]["../b"] = "sentence_transformers.models.Pooling"
    (folder / "router_config.json").write_text(json.dumps(saved))
    with pytest.raises(UnsafeFileError, match=r"'\.\./b' leaves the model folder"):
        plan_of_modules(folder)
    (folder / "router_config.json").unlink()
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"router_config\.json: file is missing; copy the folder again"):
        plan_of_modules(folder)


# --- the model's settings --------------------------------------------------------------------------------------------


def test_prompts_and_similarity(tmp_path: Path) -> None:
    plan = planned(
        tmp_path, [TEXT, POOLING], prompts={"query": "q: ", "document": None}, default_prompt_name="query",
        similarity_fn_name="dot", __version__={"sentence_transformers": "9"}, model_type="SentenceTransformer",
    )  # fmt: skip
    plan.close()
    assert plan.spec["prompts"] == {"query": "q: ", "document": ""}
    assert (plan.spec["default_prompt"], plan.similarity, plan.notes) == ("query", "dot", [])


@pytest.mark.parametrize("normalize", [True, False])
def test_a_cut_comes_behind_the_unit_length(tmp_path: Path, normalize: bool) -> None:
    modules = [TEXT, POOLING, *([("Normalize", "2", {})] if normalize else [])]
    plan = planned(tmp_path, modules, truncate_dim=8)
    kinds = [settings["kind"] for _, settings in plan.dense]
    assert kinds == (["unit-length", "cut"] if normalize else ["cut"])
    assert plan.spec["normalize"] is False
    assert plan.notes == ["vectors have the first 8 coordinates only, as truncate_dim of the folder says"]


@pytest.mark.parametrize("name", ["SparseEncoder", "CrossEncoder", 3])
def test_models_of_another_kind(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ModelError, match=f"a {name} gives no dense vectors of texts; give an encoder"):
        planned(tmp_path, [TEXT, POOLING], model_type=name)


def test_the_length_of_a_text_and_who_says_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [TEXT, POOLING])
    file = folder / "sentence_bert_config.json"
    assert "max_length" not in plan_of_modules(folder).spec
    cases: list[tuple[dict[str, Any], int | None]] = [
        ({"max_seq_length": 40}, 40),
        ({"tokenizer_args": {"model_max_length": 50}}, 50),
        ({"processor_kwargs": {"model_max_length": 60}}, 60),
        ({"max_seq_length": None}, None),
    ]
    for saved, length in cases:
        file.write_text(json.dumps({**saved, "do_lower_case": True}))
        plan = plan_of_modules(folder)
        assert plan.spec.get("max_length") == length
        assert plan.lower_case
    file.write_text(json.dumps({"model_kwargs": {"attn_implementation": "sdpa", "dtype": "float16"}}))
    plan_of_modules(folder)  # how to compute, not what
    file.write_text(json.dumps({"config_kwargs": {"num_hidden_layers": 1}}))
    with pytest.raises(ModelError, match="config_kwargs has num_hidden_layers, which embedkit does not pass on"):
        plan_of_modules(folder)


# --- two towers as one module ----------------------------------------------------------------------------------------


def two_towers(path: Path, names: list[str], below: bool = False) -> Path:
    """A listing whose first module is a CLIP model; its files stand in a sub-folder with `below`."""
    folder = folder_of(path, [(name, "" if place == 0 else str(place), {}) for place, name in enumerate(names)])
    weights = folder / "0_CLIPModel" if below else folder
    weights.mkdir(exist_ok=True)
    (folder / "config.json").unlink()
    (weights / "config.json").write_text(json.dumps({"model_type": "clip"}))
    return folder


@pytest.mark.parametrize(("names", "below"), [(["CLIPModel"], True), (["CLIPModel"], False), (["Transformer"], False)])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_clip_model_by_either_name(tmp_path: Path, names: list[str], below: bool, normalize: bool) -> None:
    folder = two_towers(tmp_path, [*names, *(["Normalize"] if normalize else [])], below)
    plan = plan_of_modules(folder)
    assert (plan.kind, plan.spec["normalize"]) == ("dual", normalize)
    assert plan.weights == (folder / "0_CLIPModel" if below else folder)


@pytest.mark.parametrize("behind", [["Pooling"], ["Dense"], ["Normalize", "Dense"]])
def test_nothing_but_a_unit_length_stands_behind_two_towers(tmp_path: Path, behind: list[str]) -> None:
    with pytest.raises(ModelError, match=f"modules in the order CLIPModel, {', '.join(behind)} are not supported"):
        plan_of_modules(two_towers(tmp_path, ["CLIPModel", *behind]))


GOOD = {"text": {"method": "get_text_features"}, "image": {"method": "get_image_features"}}


@pytest.mark.parametrize(
    ("kind", "method"),
    [("text", "forward"), ("image", "get_text_features"), ("image", None), ("audio", "get_audio_features"),
     ("message", "get_message_features")],
)  # fmt: skip
def test_inputs_that_go_another_way_through_the_model(tmp_path: Path, kind: str, method: str | None) -> None:
    folder = two_towers(tmp_path, ["Transformer"])
    file = folder / "sentence_bert_config.json"
    file.write_text(json.dumps({"modality_config": GOOD, "max_seq_length": 30}))
    assert plan_of_modules(folder).spec["max_length"] == 30
    file.write_text(json.dumps({"modality_config": {**GOOD, kind: {"method": method}}}))
    with pytest.raises(ModelError, match=f"a {kind} goes through {method!r} of the model") as caught:
        plan_of_modules(folder)
    assert caught.value.where == str(file)


def test_vectors_of_two_towers_are_not_cut_by_the_folder(tmp_path: Path) -> None:
    folder = two_towers(tmp_path, ["CLIPModel"])
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"truncate_dim": 8}))
    with pytest.raises(ModelError, match="vectors of a dual model are cut to 8 coordinates"):
        plan_of_modules(folder)
