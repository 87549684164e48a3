"""Situations from public issue threads around models, runs and scores, with inputs of our own.

Each test names its thread; the table "Strangers' situations" of docs/reliability.md lists them all.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedkit
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import DataError, MissingExtraError, ModelError, RecipeError, UserError
from embedkit.evaluation.api import open_suite
from embedkit.training import setup
from embedkit.training.planning import plan
from tests.faults.test_strangers import TEXTS, said, table, trained, words
from tests.helpers import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text model's folder."""
    return tiny.model_folder(tmp_path_factory.mktemp("strangers") / "model")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Sixty pairs of one's own."""
    return table(tmp_path / "faq.csv", ["anchor", "positive"], [(words(2 * i), words(2 * i + 1)) for i in range(60)])


def peers(folder: Path, texts: list[str] = TEXTS) -> np.ndarray:
    """The vectors of sentence-transformers, all texts in one padded batch."""
    from sentence_transformers import SentenceTransformer

    vectors: np.ndarray = SentenceTransformer(str(folder), device="cpu").encode(texts, batch_size=len(texts))
    return vectors


def changed(folder: Path, file: str, **values: Any) -> None:
    """Change some keys of a JSON file by hand."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# Encode


def test_no_inputs_give_no_vectors(model: Path) -> None:
    """sentence-transformers#2751, #1775"""
    loaded = embedkit.load(model)
    assert loaded.encode([]).shape == (0, loaded.dim)
    assert tuple(loaded.encode([], convert_to_tensor=True).shape) == (0, loaded.dim)


@pytest.mark.parametrize("inputs", [[None], ["a", None], [["a"]], [("a", "b")], ["a", float("nan")], [1]])
def test_what_is_no_text_is_named_by_its_place(model: Path, inputs: Any) -> None:
    """sentence-transformers#3682, #462"""
    with pytest.raises(DataError, match=rf"inputs\[{len(inputs) - 1}\]: item is"):
        embedkit.load(model).encode(inputs)


def test_a_series_with_gaps_in_its_index(model: Path) -> None:
    """sentence-transformers#3371"""
    pandas = pytest.importorskip("pandas")
    loaded = embedkit.load(model)
    series = pandas.Series(TEXTS[:3], index=[5, 7, 9])
    np.testing.assert_array_equal(loaded.encode(series[series != TEXTS[1]]), loaded.encode([TEXTS[0], TEXTS[2]]))


def test_a_prompt_equals_its_text_in_front(model: Path) -> None:
    """sentence-transformers#3234, #3444"""
    loaded = embedkit.load(model)
    right = loaded.encode(["this is a question : the dog"])
    np.testing.assert_allclose(loaded.encode(["the dog"], prompt="this is a question : "), right, atol=1e-6)
    np.testing.assert_allclose(loaded.encode_query(["the dog"], prompt="this is a question : "), right, atol=1e-6)
    with pytest.raises(UserError, match="unknown prompt 'query'; the model has no prompts"):  # Qwen3-Embedding#10
        loaded.encode(["a"], prompt_name="query")


def test_vectors_do_not_change_with_the_batch(model: Path) -> None:
    """sentence-transformers#2312, #3197"""
    loaded = embedkit.load(model)
    np.testing.assert_allclose(loaded.encode(TEXTS, batch_size=1), loaded.encode(TEXTS, batch_size=32), atol=1e-6)


def test_cut_texts_are_told_once(model: Path, tmp_path: Path, caplog: Any, capsys: Any) -> None:
    """sentence-transformers#4060"""
    loaded = embedkit.load(model)
    with caplog.at_level(logging.WARNING):
        loaded.encode(["a short text"])
        assert not caplog.records
        loaded.encode(["the dog " * 200, "a cat"])
        loaded.encode(["the dog " * 300])
    line = "1 of 2 texts fill all 64 tokens of the model and are cut there"
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [line]
    data = table(tmp_path / "a.csv", ["text"], [("the dog " * 200,), ("a cat",)])
    assert "2 rows of 32 numbers" in said(capsys, "encode", model, data, tmp_path / "a.npy")
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [line, line]


def test_attributes_of_sentence_transformers_are_those_of_the_model(model: Path) -> None:
    """sentence-transformers#3575, #3255"""
    loaded = embedkit.load(model)
    long = ["the dog sits on the street " * 3]
    right = embedkit.load(model, max_length=8).encode(long)
    loaded.max_seq_length = 8
    np.testing.assert_array_equal(loaded.encode(long), right)
    with pytest.raises(ModelError, match="at most 80 tokens"):
        loaded.max_seq_length = 1000
    loaded.prompts = {"query": "red "}
    loaded.default_prompt_name = "query"
    assert loaded.default_prompt == "query"
    with pytest.raises(UserError, match="there is no prompt 'qury'"):
        loaded.default_prompt_name = "qury"


def test_arguments_of_sentence_transformers_are_taken_or_answered_by_load(model: Path) -> None:
    """sentence-transformers#1211, #2603, #3199"""
    names = {"max_seq_length": 8, "prompts": {"query": "red "}, "default_prompt_name": "query"}
    loaded = embedkit.load(model, local_files_only=True, similarity_fn_name="dot", **names)
    assert (loaded.max_length, loaded.default_prompt, loaded.similarity_fn_name) == (8, "query", "dot")
    with pytest.raises(ModelError, match="fetch it once: hf download org/nowhere"):
        embedkit.load("org/nowhere", local_files_only=True)
    with pytest.raises(UserError, match="load takes no argument 'truncate_dim'; give it to encode"):
        embedkit.load(model, truncate_dim=8)
    with pytest.raises(UserError, match="load takes no argument 'promts'; did you mean 'prompts'"):
        embedkit.load(model, promts={})


# Folders


def test_files_that_were_changed_by_hand_count(model: Path, tmp_path: Path, caplog: Any) -> None:
    """sentence-transformers#3394: prompts, length, pooling and similarity written into a saved folder"""
    folder = tmp_path / "edited"
    shutil.copytree(model, folder)
    changed(folder, "config_sentence_transformers.json", prompts={"query": "red : "}, similarity_fn_name="dot")
    changed(folder, "sentence_bert_config.json", max_seq_length=8)
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": False}
    changed(folder, "1_Pooling/config.json", **flags)
    listing = [module for module in json.loads((folder / "modules.json").read_text()) if "Norm" not in module["type"]]
    (folder / "modules.json").write_text(json.dumps(listing))
    loaded = embedkit.load(folder)
    assert (loaded.max_length, loaded.pooling, loaded.normalize) == (8, "cls", False)
    assert (loaded.prompts, loaded.similarity_fn_name) == ({"query": "red : "}, "dot")
    np.testing.assert_allclose(loaded.encode(TEXTS), peers(folder), atol=1e-5)
    assert "changed since embedkit wrote the folder, and used: pooling 'cls' (was 'mean')" in caplog.text
    caplog.clear()
    embedkit.load(model)
    assert "changed since" not in caplog.text


def test_cls_pooling_with_padding_on_the_left(model: Path, tmp_path: Path) -> None:
    """sentence-transformers#3208: the first token of the text, not of the padding"""
    folder = tmp_path / "left"
    shutil.copytree(model, folder)
    words_of_it = tiny.tokenizer()
    words_of_it.padding_side = "left"
    words_of_it.save_pretrained(folder)
    changed(folder, "1_Pooling/config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    alone = np.concatenate([peers(folder, [text]) for text in TEXTS])
    np.testing.assert_allclose(embedkit.load(folder).encode(TEXTS), alone, atol=1e-5)


def test_a_pointer_of_git_lfs_is_named(model: Path, tmp_path: Path) -> None:
    """transformers#27923"""
    folder = tmp_path / "cloned"
    shutil.copytree(model, folder)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")
    with pytest.raises(ModelError, match="pointer of Git LFS in place of the weights; .* git lfs pull"):
        embedkit.load(folder)


def test_a_decoder_without_a_padding_token_is_saved_with_one(tmp_path: Path, caplog: Any) -> None:
    """transformers#22312: sentence-transformers reads the saved folder, in batches, with equal vectors"""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny.tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    shape = AutoConfig.for_model(
        "llama", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=64, max_position_embeddings=64, vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    loaded = embedkit.load(tmp_path / "llama")
    loaded.save(tmp_path / "saved")
    assert loaded.tokenizer.pad_token is None
    assert "the saved one pads with '[SEP]', which the mask hides" in caplog.text
    np.testing.assert_allclose(peers(tmp_path / "saved"), loaded.encode(TEXTS), atol=1e-5)
    np.testing.assert_array_equal(embedkit.load(tmp_path / "saved").encode(TEXTS), loaded.encode(TEXTS))


def test_a_clip_whose_configuration_names_end_token_2(tmp_path: Path) -> None:
    """transformers#24650, #21029: read at the token with the highest id, as transformers does"""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = tiny.tokenizer(24)
    tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**common, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "eos_token_id": 2, "bos_token_id": 2}
    vision = {**common, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    theirs = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    tiny.spread(theirs)
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    right = []
    for one in TEXTS:
        tokens = tokenizer(one, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            right.append(theirs.text_projection(theirs.text_model(input_ids=tokens).pooler_output)[0].numpy())
    loaded = embedkit.load(tmp_path)
    np.testing.assert_allclose(loaded.encode(TEXTS, normalize=False), right, atol=1e-5)
    loaded.save(tmp_path / "own")
    np.testing.assert_array_equal(embedkit.load(tmp_path / "own").encode(TEXTS), loaded.encode(TEXTS))


def test_an_adapter_alone_finds_its_base_or_names_it(model: Path, tmp_path: Path) -> None:
    """sentence-transformers#2465, #2979"""
    peft = pytest.importorskip("peft")
    from transformers import AutoModel

    base = AutoModel.from_pretrained(str(model))
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    vectors = embedkit.load(tmp_path / "adapter").encode(TEXTS)
    assert np.abs(vectors - embedkit.load(model, pooling="mean").encode(TEXTS)).max() > 1e-3
    changed(tmp_path / "adapter", "adapter_config.json", base_model_name_or_path="org/nowhere")
    with pytest.raises(ModelError, match="hf download org/nowhere"):
        embedkit.load(tmp_path / "adapter")


# Packages that are missing


def test_peft_is_asked_for_before_work_starts(model: Path, pairs: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """transformers#34733"""
    recipe = load_recipe("pairs", [str(pairs), f"model={model}", "model.lora={rank: 2}"])
    setup.check(recipe)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/nowhere"}')
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"model.lora needs the package 'peft'; pip install .embedkit\[lora\]"):
        setup.check(recipe)
    with pytest.raises(MissingExtraError, match="an adapter of peft needs"):
        embedkit.load(tmp_path / "adapter")


def test_scikit_learn_and_faiss_are_asked_for_before_a_model_loads(monkeypatch: Any) -> None:
    """evaluate#394"""
    rows = [{"text": words(i), "label": "ab"[i % 2]} for i in range(20)]
    searched = [{"query": words(i), "positive": words(50 + i)} for i in range(5)]
    open_suite("own-classification", rows)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'scikit-learn'; pip install .embedkit\[eval\]"):
        open_suite("own-classification", rows)
    with pytest.raises(MissingExtraError, match=r"needs the package 'faiss-cpu'; pip install .embedkit\[search\]"):
        open_suite("own-retrieval", searched, settings={"index": "HNSW16"})


# Runs


def test_matryoshka_sizes_in_any_order_and_too_large(model: Path, pairs: Path, capsys: Any) -> None:
    """sentence-transformers#2719, #3203"""
    objective = "objective={{name: matryoshka, objective: infonce, dims: {dims}}}"
    assert "2 steps, loss" in trained(capsys, "pairs", pairs, model, objective.format(dims="[8, 32, 16]"))
    out = trained(capsys, "pairs", pairs, model, objective.format(dims="[64, 32]"), code=2)
    assert "dims is 64; it must be a whole number of at least 1 and at most 32" in out


def test_resuming_under_the_trainers_names(model: Path, pairs: Path) -> None:
    """sentence-transformers#2695, #1808"""
    for word in ("resume_from_checkpoint=true", "resume=true"):
        with pytest.raises(RecipeError, match="--resume resumes the run in train.output"):
            load_recipe("pairs", [str(pairs), word])


@pytest.mark.parametrize(("word", "trackers"), [("report_to=none", []), ("report_to=wandb", ["wandb"])])
def test_report_to_takes_one_name_or_none(word: str, trackers: list[str]) -> None:
    """transformers#16594, setfit#570"""
    assert load_recipe("pairs", [word]).train.trackers == trackers


@pytest.mark.parametrize("word", ["eval_steps=2", "load_best_model_at_end=true"])
def test_an_evaluation_that_names_nothing_to_score_is_answered(word: str) -> None:
    """sentence-transformers#3105, #3032: no benchmark of the hub is fetched for it"""
    with pytest.raises(RecipeError, match=r"the recipe has no evaluation, .* add evaluation.data=FILE"):
        load_recipe("pairs", [word])
    assert load_recipe("pairs", [word, "evaluation.data=sts.csv"]).evaluation is not None
    assert load_recipe("simcse-unsup", [word]).evaluation is not None  # whose recipe has one


def test_losses_without_a_counterpart_are_answered() -> None:
    """sentence-transformers#2920, #622"""
    with pytest.raises(RecipeError, match=r"SoftmaxLoss has no counterpart; .*infonce"):
        load_recipe("pairs", ["loss=SoftmaxLoss"])
    read = {"TripletLoss": "triplet", "ContrastiveLoss": "contrastive", "BatchAllTripletLoss": "batch-all-triplet"}
    for loss, ours in read.items():
        recipe = load_recipe("pairs", [f"loss={loss}"])
        assert recipe.objective is not None and recipe.objective.name == ours
        named = load_recipe("pairs", [f"objective={ours}"]).objective
        assert named is not None and named.name == ours  # and is no other's name for a recipe


def test_rows_are_held_out_beside_an_evaluation_when_asked_for(
    model: Path, pairs: Path, tmp_path: Path, capsys: Any
) -> None:
    """sentence-transformers#3459"""
    scores = table(
        tmp_path / "s.csv", ["sentence1", "sentence2", "score"], [(words(i), words(9 * i), i) for i in range(9)]
    )
    evaluation = f"evaluation={{suite: own-sts, data: {scores}}}"
    out = trained(capsys, "pairs", pairs, model, evaluation, "train.holdout=0.2")
    assert "48 rows" in out and "own-sts/s " in out and "recall@1 on your 12 held-out pairs" in out
    assert "held-out" not in trained(capsys, "pairs", pairs, model, evaluation)


def test_notes_of_a_folder_are_warnings_of_the_plan(pairs: Path, tmp_path: Path, capsys: Any) -> None:
    """Qwen3-Embedding#10: a folder that is no model of sentences"""
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_config(tiny.config("bert")).save_pretrained(tmp_path / "classifier")
    tiny.tokenizer().save_pretrained(tmp_path / "classifier")
    made = plan(load_recipe("pairs", [str(pairs), f"model={tmp_path / 'classifier'}"]))
    assert any("names no pooling: a text is the mean of its tokens" in warning for warning in made.warnings)
    assert any("a classifier or reranker, whose head is not used" in warning for warning in made.warnings)


# Scores


def collection(folder: Path, qrels: str, name: str = "test.tsv") -> Path:
    """Five documents and their questions."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = [words(i, 8) for i in range(5)]
    rows = [json.dumps({"_id": str(i), "title": None, "text": text}) for i, text in enumerate(documents)]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    rows = [json.dumps({"_id": f"q{i}", "text": text}) for i, text in enumerate(documents)]
    (folder / "queries.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "qrels" / name).write_text(qrels)
    return folder


@pytest.mark.parametrize("name", ["test.tsv", "test.txt", "test.qrels"])
def test_judgements_in_the_form_of_trec(model: Path, tmp_path: Path, name: str) -> None:
    """tevatron#230"""
    data = collection(tmp_path / "own", "".join(f"q{i} 0 {i} 1\n" for i in range(5)), name)
    assert embedkit.evaluate(embedkit.load(model), data=data, resamples=0).scores == {"own": 100.0}


def test_graded_judgements_and_queries_without_a_relevant_document(model: Path, tmp_path: Path) -> None:
    """mteb#141, #3030"""
    lines = [f"q{i}\t{i}\t{2 if i < 4 else 0}\nq{i}\t{(i + 1) % 5}\t0\n" for i in range(5)]
    data = collection(tmp_path / "own", "query-id\tcorpus-id\tscore\n" + "".join(lines))
    report = embedkit.evaluate(embedkit.load(model), data=data, resamples=0)
    assert report.scores == {"own": 80.0}
    assert any("1 judged queries have no relevant document and count as 0: 'q4'" in note for note in report.notes)


def test_queries_corpus_and_relevant_docs_in_one_object(model: Path, tmp_path: Path, capsys: Any) -> None:
    """FlagEmbedding#1262, sentence-transformers#2814"""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.evaluation import InformationRetrievalEvaluator

    corpus = {str(i): words(i, 8) for i in range(30)}
    queries = {f"q{i}": words(i + 1, 3) for i in range(12)}
    relevant = {f"q{i}": {str(i), str(i + 9)} for i in range(12)}
    right = InformationRetrievalEvaluator(queries, corpus, relevant)(SentenceTransformer(str(model), device="cpu"))
    data = {"queries": queries, "corpus": corpus, "relevant_docs": relevant}
    loaded = embedkit.load(model)
    report = embedkit.evaluate(loaded, data=data, resamples=0)
    assert report.scores["data"] == pytest.approx(100 * right["cosine_ndcg@10"], abs=1e-4)
    data["relevant_docs"] = {name: sorted(ids) for name, ids in relevant.items()}
    (tmp_path / "qa.json").write_text(json.dumps({**data, "mode": "text"}))
    assert embedkit.evaluate(loaded, data=tmp_path / "qa.json", resamples=0).scores["qa"] == report.scores["data"]
    with pytest.raises(DataError, match="relevant_docs names '99', which has no text"):
        open_suite("own-retrieval", {**data, "relevant_docs": {"q1": ["99"]}})
    out = said(capsys, "train", "pairs", tmp_path / "qa.json", f"model={model}", code=2)
    assert "to be trained on, rows of query and positive" in out
