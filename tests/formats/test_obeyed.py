"""What a sentence-transformers folder says is obeyed: vectors equal to that library's, or a line that says why not."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedkit
from embedkit.cli.app import main
from embedkit.errors import ModelError, UnsafeFileError
from embedkit.formats.detect import inspect
from tests.helpers import tiny

modules = pytest.importorskip("sentence_transformers.models")
TEXTS = tiny.SENTENCES


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare transformers folder."""
    folder = tiny.model_folder(tmp_path_factory.mktemp("base") / "m")
    for name in ("embedkit.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "1_Pooling")
    return folder


def written(base: Path, path: Path, behind: list[Any], **settings: Any) -> Any:
    """A SentenceTransformer with modules behind the encoder, saved to `path`."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(modules=[modules.Transformer(str(base)), *behind], device="cpu", **settings)
    model.save(str(path))
    return model


def check(model: Any, path: Path) -> Any:
    """Assert equal vectors in `path` and, saved by embedkit, in both libraries; embedkit's model."""
    from sentence_transformers import SentenceTransformer

    ours = embedkit.load(path, device="cpu")
    ours.save(path.parent / "again")
    again, theirs = embedkit.load(path.parent / "again", device="cpu"), None
    assert again.hash() == ours.hash()
    theirs = SentenceTransformer(str(path.parent / "again"), device="cpu")
    for name in (None, *model.prompts):
        expected = model.encode(TEXTS, prompt_name=name, show_progress_bar=False)
        np.testing.assert_allclose(ours.encode(TEXTS, prompt=name), expected, atol=1e-5)
        np.testing.assert_allclose(theirs.encode(TEXTS, prompt_name=name, show_progress_bar=False), expected, atol=1e-5)
    return ours


POOLINGS = [
    "cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("cls", "mean"), ("mean", "cls"),
    ("weightedmean", "max", "lasttoken"),
]  # fmt: skip


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
@pytest.mark.parametrize("include", [True, False], ids=["prompt-pooled", "prompt-left-out"])
def test_every_pooling_with_and_without_the_prompt(base: Path, tmp_path: Path, pooling: Any, include: bool) -> None:
    prompts = {"query": "who is ", "document": ""}
    model = written(base, tmp_path / "m", [modules.Pooling(32, pooling, include_prompt=include)], prompts=prompts)
    ours = check(model, tmp_path / "m")
    assert ours.prompts == prompts
    assert ours.pool_prompt == include
    assert ours.dim == model.get_sentence_embedding_dimension()


def layer_norm(size: int) -> Any:
    layer = modules.LayerNorm(size)
    torch.nn.init.normal_(layer.norm.weight)
    return layer


LAYERS: dict[str, Callable[[], list[Any]]] = {
    "normalize before and after dense": lambda: [
        modules.Normalize(), modules.Dense(32, 16), modules.Normalize(),
        modules.Dense(16, 8, activation_function=torch.nn.ELU()),
    ],
    "layer norm between": lambda: [layer_norm(32), modules.Dense(32, 8), layer_norm(8), modules.Normalize()],
    "dropout": lambda: [modules.Dropout(0.3), modules.Dense(32, 8, activation_function=torch.nn.Identity())],
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_any_order(base: Path, tmp_path: Path, name: str) -> None:
    check(written(base, tmp_path / "m", [modules.Pooling(32), *LAYERS[name]()]), tmp_path / "m")


@pytest.mark.parametrize("normalize", [True, False])
def test_truncate_dim_cuts_without_normalising_again(base: Path, tmp_path: Path, normalize: bool) -> None:
    behind = [modules.Pooling(32), *([modules.Normalize()] if normalize else [])]
    model = written(base, tmp_path / "m", behind, truncate_dim=8)
    ours = check(model, tmp_path / "m")
    assert (ours.dim, ours.training_dim) == (8, 32)  # trained in full, as there
    assert json.loads((tmp_path / "again" / "config_sentence_transformers.json").read_text())["truncate_dim"] == 8


@pytest.mark.parametrize("name", ["dot", "euclidean", "manhattan"])
def test_the_similarity_function_of_the_folder_is_used_and_kept(base: Path, tmp_path: Path, name: str) -> None:
    model = written(base, tmp_path / "m", [modules.Pooling(32)], similarity_fn_name=name)
    ours = check(model, tmp_path / "m")
    vectors = model.encode(TEXTS, show_progress_bar=False)
    expected = model.similarity(vectors, vectors).numpy()
    np.testing.assert_allclose(ours.similarity(vectors, vectors), expected, rtol=1e-4, atol=1e-3)
    saved = json.loads((tmp_path / "again" / "config_sentence_transformers.json").read_text())
    assert saved["similarity_fn_name"] == name


def test_a_default_prompt_and_empty_prompts_by_name(base: Path, tmp_path: Path) -> None:
    prompts = {"query": "Instruct: find\nQuery:", "document": ""}
    model = written(base, tmp_path / "m", [modules.Pooling(32)], prompts=prompts, default_prompt_name="query")
    ours = check(model, tmp_path / "m")
    np.testing.assert_array_equal(ours.encode(TEXTS), ours.encode(TEXTS, prompt="query"))
    np.testing.assert_array_equal(ours.encode(TEXTS, prompt="document"), ours.encode(TEXTS, prompt=""))


def test_a_model_within_a_model_is_flattened(base: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    inner = written(base, tmp_path / "inner", [modules.Pooling(32), modules.Normalize()])
    model = SentenceTransformer(modules=[inner, modules.Dense(32, 16)], device="cpu")
    model.save(str(tmp_path / "m"))
    check(model, tmp_path / "m")


def test_routes_are_read_one_at_a_time(base: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = [modules.Transformer(str(base)), modules.Pooling(32)]
    router = modules.Router.for_query_document(
        query_modules=[*encoder, modules.Dense(32, 8)], document_modules=[*encoder, modules.Normalize()]
    )
    model = SentenceTransformer(modules=[router], device="cpu")
    model.save(str(tmp_path / "m"))
    with pytest.raises(ModelError, match=r"different modules \(query, document\).*route='query'"):
        embedkit.load(tmp_path / "m")
    query = embedkit.load(tmp_path / "m", device="cpu", route="query")  # as the remedy says
    document = embedkit.load(tmp_path / "m", device="cpu", route="document")
    np.testing.assert_allclose(query.encode(TEXTS), model.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(document.encode(TEXTS), model.encode_document(TEXTS), atol=1e-5)
    with pytest.raises(ModelError, match="has no route 'answer'"):
        embedkit.load(tmp_path / "m", route="answer")
    words = ["export", str(tmp_path / "m"), str(tmp_path / "query"), "--route", "query"]
    assert main(words) == 0  # as the remedy says
    np.testing.assert_array_equal(embedkit.load(tmp_path / "query", device="cpu").encode(TEXTS), query.encode(TEXTS))


def test_a_route_where_there_are_none(base: Path, tmp_path: Path) -> None:
    written(base, tmp_path / "m", [modules.Pooling(32)])
    for folder in (tmp_path / "m", base):
        with pytest.raises(ModelError, match="has no routes"):
            embedkit.load(folder, route="query")


def test_a_router_of_equal_routes_is_read(base: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = [modules.Transformer(str(base)), modules.Pooling(32)]
    router = modules.Router.for_query_document(query_modules=encoder, document_modules=encoder)
    model = SentenceTransformer(modules=[router], device="cpu")
    model.save(str(tmp_path / "m"))
    structure = json.loads((tmp_path / "m" / "router_config.json").read_text())["structure"]
    if structure["query"] != structure["document"]:
        pytest.skip("this sentence-transformers writes shared modules twice")
    np.testing.assert_allclose(
        embedkit.load(tmp_path / "m", device="cpu").encode(TEXTS), model.encode_query(TEXTS), atol=1e-5
    )


# --- refused, and said -----------------------------------------------------------------------------------------------


def test_a_cross_encoder_is_told_where_it_belongs(base: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(base), num_labels=1, device="cpu").save_pretrained(str(tmp_path / "m"))
    with pytest.raises(ModelError, match=r"sequence-classification.*--scorer"):
        embedkit.load(tmp_path / "m")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("WordEmbeddings", "word vectors"), ("BoW", "counts words"), ("CNN", "convolution"), ("LSTM", "recurrent"),
     ("WeightedLayerPooling", "over layers"), ("SpladePooling", "sparse")],
)  # fmt: skip
def test_modules_that_are_not_supported_say_why(base: Path, tmp_path: Path, kind: str, reason: str) -> None:
    written(base, tmp_path / "m", [modules.Pooling(32)])
    listing = tmp_path / "m" / "modules.json"
    entries = json.loads(listing.read_text())
    entries[1]["type"] = f"sentence_transformers.models.{kind}"
    listing.write_text(json.dumps(entries))
    with pytest.raises(ModelError, match=f"{kind} is not supported: .*{reason}") as caught:
        embedkit.load(tmp_path / "m")
    assert ("dense vectors" if reason == "sparse" else ".npy") in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "no dense vectors"),
        ("config_sentence_transformers.json", {"default_prompt_name": "ask"}, "none of its prompts"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "maxsim"}, "unknown similarity_fn_name"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim is 0"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "pooling median"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "fill-mask"),
        ("sentence_bert_config.json", {"model_kwargs": {"rope_scaling": 2}}, "rope_scaling"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(
    base: Path, tmp_path: Path, file: str, changes: dict[str, object], message: str
) -> None:
    written(base, tmp_path / "m", [modules.Pooling(32)])
    edit(tmp_path / "m" / file, **changes)
    with pytest.raises(ModelError, match=message):
        embedkit.load(tmp_path / "m")


def test_a_function_that_is_not_torchs_is_not_imported(base: Path, tmp_path: Path) -> None:
    written(base, tmp_path / "m", [modules.Pooling(32), modules.Dense(32, 8)])
    edit(tmp_path / "m" / "2_Dense" / "config.json", activation_function="os.system")
    with pytest.raises(UnsafeFileError, match=r"os\.system"):
        embedkit.load(tmp_path / "m")


@pytest.mark.parametrize(
    "file", ["config_sentence_transformers.json", "1_Pooling/config.json", "sentence_bert_config.json"]
)
def test_keys_that_nobody_reads_are_told(
    base: Path, tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    written(base, tmp_path / "m", [modules.Pooling(32)])
    assert inspect(tmp_path / "m").notes == []
    edit(tmp_path / "m" / file, colour="red", shape={"a": 1}, nothing=None)
    note = f'{file}: not used: colour = "red", shape = {{"a": 1}}'
    assert inspect(tmp_path / "m").notes == [note]
    with caplog.at_level(logging.WARNING):
        embedkit.load(tmp_path / "m", device="cpu")
    assert note in caplog.text


def test_the_guess_of_a_bare_folder_is_told_unless_pooling_is_set(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    embedkit.load(base, device="cpu")
    assert "names no pooling: a text is the mean of its tokens" in caplog.text
    caplog.clear()
    embedkit.load(base, device="cpu", pooling="cls")
    assert "names no pooling" not in caplog.text


def test_a_classifier_is_told_to_be_one(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(base, tmp_path / "m")
    edit(tmp_path / "m" / "config.json", architectures=["BertForSequenceClassification"])
    embedkit.load(tmp_path / "m", device="cpu")
    assert "a classifier or reranker, whose head is not used" in caplog.text


def test_a_length_beyond_the_positions_is_lowered_and_told(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(base, tmp_path / "m", [modules.Pooling(32)])
    edit(tmp_path / "m" / "sentence_bert_config.json", max_seq_length=512)
    model = embedkit.load(tmp_path / "m", device="cpu")
    assert model.max_length == 80
    assert "max_length is 80: the folder says 512" in caplog.text
    assert model.encode(["the dog " * 300]).shape == (1, 32)


def test_a_token_without_a_vector_is_told_at_load(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "m")
    words = tiny.tokenizer()
    words.add_tokens(["zzfoo"])
    words.save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match=r"'zzfoo'.*vectors for \d+ tokens"):
        embedkit.load(tmp_path / "m")


def test_folders_that_stand_for_a_model(base: Path, tmp_path: Path) -> None:
    expected = embedkit.load(base, device="cpu").encode(TEXTS)
    run = tmp_path / "run"
    shutil.copytree(base, run / "model")
    (run / "log.jsonl").write_text("{}\n")
    hub = tmp_path / "models--org--name"
    shutil.copytree(base, hub / "snapshots" / "abc")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc")
    for folder in (run, hub):
        np.testing.assert_array_equal(embedkit.load(folder, device="cpu").encode(TEXTS), expected)
    for step in (5, 10):
        shutil.copytree(base, tmp_path / "out" / f"checkpoint-{step}")
    with pytest.raises(ModelError, match=r"holds checkpoints 5, 10, no model.*give .*checkpoint-10"):
        embedkit.load(tmp_path / "out")
    inner = embedkit.load(tmp_path / "out" / "checkpoint-10", device="cpu")
    np.testing.assert_array_equal(inner.encode(TEXTS), expected)


def test_no_weights_are_reported_missing_in_a_saved_folder(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from sentence_transformers import SentenceTransformer

    embedkit.load(base, device="cpu").save(tmp_path / "m")
    SentenceTransformer(str(tmp_path / "m"), device="cpu")
    assert "MISSING" not in capfd.readouterr().err + caplog.text


@pytest.mark.parametrize("kind", ["blip", "qwen2_vl"])
def test_a_model_of_images_that_is_not_read_says_so(base: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(base, tmp_path / "m")
    edit(tmp_path / "m" / "config.json", model_type=kind, vision_config={})
    with pytest.raises(ModelError, match=f"a {kind} model reads images"):
        embedkit.load(tmp_path / "m")


@pytest.mark.parametrize("pooling", ["weighted-mean", "mean-sqrt-len", "cls+mean"])
def test_new_poolings_in_one_onnx_graph(tmp_path: Path, pooling: str) -> None:
    pytest.importorskip("onnxruntime")
    embedkit.export(tiny.text_encoder(pooling=pooling), tmp_path / "o", format="onnx")  # compares the graph itself


def test_pooling_without_the_prompt_is_no_onnx_graph(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ModelError, match="leaving the prompt out"):
        embedkit.export(tiny.text_encoder(pool_prompt=False), tmp_path / "o", format="onnx")
