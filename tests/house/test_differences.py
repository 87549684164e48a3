"""What embedkit does where a library below it, or a peer, does something else (docs/differences.md)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedkit
from embedkit.config.recipe import DataConfig, TrainConfig
from embedkit.data import read_rows
from embedkit.data.datasets.open import open_training
from embedkit.data.schema.contract import Contract
from embedkit.errors import DataError, NonFiniteError
from embedkit.evaluation import EmbeddingCache, evaluate
from embedkit.evaluation.measures.ranking import evaluate_run
from embedkit.formats.tensors import read_safetensors, write_tensors
from embedkit.models.heads.layers import UnitLength
from embedkit.models.modules.static import StaticEncoder
from embedkit.objectives import ObjectiveBatch, build
from embedkit.objectives.tools import unit
from embedkit.retrieval.exact import array_blocks, exact_top_k
from embedkit.training.optim.optimizer import schedule_factor
from tests.evaluation.toys import BagOfWords, Fixed, sentences
from tests.helpers import tiny


def test_the_rate_stays_at_its_end_after_the_last_step() -> None:
    config = TrainConfig(max_steps=10, lr=0.1, schedule="cosine")
    ends = [schedule_factor(step, 10, config) for step in range(9, 40)]
    assert max(ends[1:]) <= ends[0]


def test_a_batch_of_one_class_pulls_it_together() -> None:
    z = torch.nn.functional.normalize(
        torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    z.requires_grad_(True)
    views = {"anchor": z[:2], "positive": z[2:]}
    batch = ObjectiveBatch.of(views, label=torch.zeros(2, dtype=torch.long))
    loss = build({"name": "supcon", "temperature": 0.07}).double()(views, batch).loss
    s = (z @ z.T / 0.07).detach()
    plain = 0.0
    for i in range(4):
        others = [j for j in range(4) if j != i]
        total = math.log(sum(math.exp(float(s[i, j])) for j in others))
        plain += sum(total - float(s[i, j]) for j in others) / 3 / 4
    assert float(loss.detach()) == pytest.approx(plain, rel=1e-9)
    loss.backward()
    assert z.grad is not None and float(z.grad.abs().max()) > 0


@pytest.mark.parametrize("words", [1, 40], ids=["short", "long"])
def test_a_nan_in_a_query_is_never_swallowed(words: int) -> None:
    model = tiny.text_encoder()
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "query.weight" in n)[0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        model.encode(["red " * words])


def test_a_float64_score_keeps_its_digits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    score = 0.123456789012345678
    datasets.Dataset.from_dict({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [score, 0.5]}).save_to_disk(
        str(tmp_path / "d")
    )
    rows = list(read_rows(str(tmp_path / "d")))
    assert rows[0]["score"] == score


def test_two_copies_of_one_vector_do_not_hide_others() -> None:
    random = np.random.default_rng(0)
    distinct = random.normal(size=(50, 16)).astype(np.float32)
    documents = np.concatenate([distinct, np.repeat(random.normal(size=(1, 16)), 300, 0)]).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    _, places = exact_top_k(distinct, array_blocks(documents, 64), 1, len(documents))
    assert places[:, 0].tolist() == list(range(50))


def test_a_classifier_reads_class_names_and_not_their_numbers(tmp_path: Path) -> None:
    """Of labels 0 to 11 and of five of them the same number means another class in each split."""
    datasets = pytest.importorskip("datasets")
    words = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx"]
    plain = {
        split: datasets.Dataset.from_dict(
            {"text": [f"the {words[n]} {place}" for place, n in enumerate(labels)], "label": labels}
        )
        for split, labels in (("train", list(range(12)) * 6), ("test", [1, 2, 3, 10, 11] * 6))
    }
    encoded = datasets.DatasetDict({name: part.class_encode_column("label") for name, part in plain.items()})
    for name, part in encoded.items():
        part.to_parquet(tmp_path / "files" / f"{name}.parquet")
    encoded.save_to_disk(tmp_path / "saved")
    numbers = [row["label"] for row in read_rows(tmp_path / "files" / "test.parquet")]
    assert numbers[:5] == [0, 3, 4, 1, 2]  # 1, 10, 11, 2, 3 as texts
    forms: list[Any] = [datasets.DatasetDict(plain), encoded, tmp_path / "files", tmp_path / "saved"]
    scores = [evaluate(BagOfWords(), "own-classification", form, resamples=0).main for form in forms]
    assert scores[0] > 90 and scores[1:] == scores[:1] * 3


def test_training_refuses_files_that_number_their_classes_apart(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    contract = Contract(frozenset({"anchor"}), frozenset({"label"}))

    def opened(*labels: list[int]) -> Any:
        for number, given in enumerate(labels):
            rows = {"anchor": [f"text {number} {place}" for place in range(len(given))], "label": given}
            datasets.Dataset.from_dict(rows).class_encode_column("label").to_parquet(tmp_path / f"{number}.parquet")
        sources = [{"path": str(tmp_path / f"{number}.parquet")} for number in range(len(labels))]
        return open_training(DataConfig(train=sources), contract, batch_size=2, seed=0)

    assert opened([0, 1, 2], [0, 1])
    with pytest.raises(DataError, match=r"1\.parquet label: class 1 is '2' here and '10' in .*0\.parquet; number the"):
        opened([1, 2, 10], [1, 2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_zero_vector_stays_zero_in_every_type(dtype: torch.dtype) -> None:
    rows = torch.tensor([[0.0, 0.0], [1e-6, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    for scale in (UnitLength(), unit):
        found = scale(rows)
        torch.testing.assert_close(found, torch.tensor([[0, 0], [1, 0], [0.6, 0.8]]).to(dtype), atol=0.05, rtol=0)
        assert found.dtype == dtype and not found[0].any()
        (gradient,) = torch.autograd.grad(found[2].sum(), rows)
        assert torch.isfinite(gradient).all()
    long = torch.full((1, 400), 6e4, dtype=torch.float16)
    assert UnitLength()(long).float().norm().item() == pytest.approx(1.0, abs=1e-3)


def test_a_text_of_no_known_word_is_a_zero_vector_in_half_precision() -> None:
    model = StaticEncoder(tiny.tokenizer(), 8)
    with torch.no_grad():
        model.embedding.weight[tiny.tokenizer().unk_token_id] = 0.0
    vectors = model.half().encode(["zzz qqq", "the dog"])
    assert not vectors[0].any() and np.linalg.norm(vectors[1]) == pytest.approx(1.0, abs=1e-3)
    assert not model.similarity(["zzz qqq"], ["the dog"]).any()


def test_vectors_in_column_order_are_kept_as_they_are(tmp_path: Path) -> None:
    vectors = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert not vectors.flags.c_contiguous
    keys = [b"1" * 16, b"2" * 16]
    EmbeddingCache(tmp_path / "cache").put("model", None, keys, vectors)
    found = EmbeddingCache(tmp_path / "cache").get("model", None, keys)
    np.testing.assert_array_equal([found[key] for key in keys], vectors)
    write_tensors({"table": torch.from_numpy(vectors)}, tmp_path)
    np.testing.assert_array_equal(read_safetensors(tmp_path / "model.safetensors")["table"].numpy(), vectors)
    model = StaticEncoder(tiny.tokenizer(), 8)
    model.embedding.weight = torch.nn.Parameter(model.embedding.weight.detach().T.contiguous().T)
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(
        embedkit.load(tmp_path / "m", device="cpu").encode(["the dog"]), model.encode(["the dog"])
    )


def test_precision_at_k_is_divided_by_all_relevant_documents() -> None:
    """trec_eval's: a document more that is found never lowers it."""
    judged = {"q": {f"d{n:02d}": int(n in (0, *range(11, 20))) for n in range(20)}}
    run = {"q": {f"d{n:02d}": 1 - n / 100 for n in range(20)}}
    assert evaluate_run(judged, run, (3,))["q"]["map@3"] == pytest.approx(0.1)
    judged["q"] |= {"d02": 1, "d19": 0}
    assert evaluate_run(judged, run, (3,))["q"]["map@3"] == pytest.approx((1 + 2 / 3) / 10)


def test_rankings_go_by_ranks_whatever_the_sign_of_the_scores() -> None:
    judged = {"q": {"a": 1, "b": 1, "c": 0, "d": 0}}
    run = {"a": -0.1, "b": -0.2, "c": 0.3, "d": -0.4}
    found = evaluate_run(judged, {"q": run}, (4,))["q"]
    assert found == evaluate_run(judged, {"q": {name: score + 1 for name, score in run.items()}}, (4,))["q"]
    assert found["map@4"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (found["mrr@4"], found["recall@4"], found["precision@4"]) == (0.5, 1.0, 0.5)


def test_average_precision_of_pairs_is_that_of_all_scores_at_once(tmp_path: Path) -> None:
    """Neither the sign of the scores in a batch nor their size decides: they are ranked as they are."""
    metrics = pytest.importorskip("sklearn.metrics")
    angles = np.linspace(0.1, 3.0, 40)
    table = {"axis": [30.0, 0.0]} | {f"t{n}": [30 * np.cos(a), 30 * np.sin(a)] for n, a in enumerate(angles)}
    labels = [int(n % 3 != 2 and n < 30) for n in range(40)]
    rows = [{"sentence1": "axis", "sentence2": f"t{n}", "label": label} for n, label in enumerate(labels)]
    scores = evaluate(Fixed(table), "own-pairs", rows, resamples=0).tasks["data"].metrics
    expected = 100 * metrics.average_precision_score(labels, np.cos(angles))
    assert scores["cosine_ap"] == pytest.approx(expected, abs=1e-4)
    assert scores["dot_ap"] == pytest.approx(expected, abs=1e-4)


def test_an_index_that_turns_inner_products_is_told_beside_the_score() -> None:
    """faiss' PCA takes the mean away, which inner products do not survive."""
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    texts = sorted(set(sentences(300, 5)))
    table = {text: (rng.standard_normal(32) + 1.5) * rng.uniform(0.5, 2) for text in texts}
    data = [{"query": text, "positive": text} for text in texts]
    report = evaluate(
        Fixed(table), "own-retrieval", data, settings={"index": "PCAR32,Flat", "similarity": "dot"}, resamples=0
    )
    recall = report.tasks["data"].details["index_recall"]
    assert recall < 95 and any(f"finds {recall:.1f} % of the true nearest documents" in note for note in report.notes)


def test_a_mask_keeps_the_tokens_of_the_folder_when_it_is_saved(tmp_path: Path) -> None:
    """A RoBERTa folder without tokenizer.json: the space before the mask is a token, as in transformers."""
    from transformers import AutoModel, AutoTokenizer, RobertaConfig

    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyz\u0120"]
    settings = RobertaConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=66, pad_token_id=1,
    )  # fmt: skip
    folder = tmp_path / "roberta"
    AutoModel.from_config(settings).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    model = embedkit.load(folder, device="cpu")
    model.save(tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(folder)("a <mask> b")["input_ids"]
    for found in (model, embedkit.load(tmp_path / "saved", device="cpu")):
        assert found.prepare(["a <mask> b"]).rows() == [theirs]
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("a <mask> b")["input_ids"] == theirs


def test_every_row_names_a_test_that_is_there() -> None:
    root = Path(__file__).parents[2]
    lines = (root / "docs" / "differences.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and not line.startswith("| ---")]
    rows = [cells for cells in rows if cells[0] != "behaviour"]
    assert len(rows) > 60
    for cells in rows:
        file = ""
        for place in cells[-1].split(", "):
            if place == "same":
                continue
            path, _, name = place.partition("::")
            file = path or file
            text = (root / file).read_text(encoding="utf-8")
            assert (f"def {name}(" if name else "def test_") in text, (cells[0], place)
