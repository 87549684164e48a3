"""Folders of static encoders: model2vec's tables with mapping and weights, sentence-transformers', and embedkit's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import embedkit
from embedkit.errors import ModelError
from embedkit.models.modules.static import StaticEncoder
from tests.helpers import tiny

TEXTS = [text for text in tiny.SENTENCES if text]
WORDS = tiny.tokenizer()
ROWS = len(WORDS)


def folder_with(path: Path, tensors: dict[str, torch.Tensor], normalize: bool = False, **listing: Any) -> Path:
    """The files of a model2vec folder, as its library writes them for sentence-transformers."""
    path.mkdir(exist_ok=True)
    (path / "tokenizer.json").write_text(WORDS.backend_tokenizer.to_str())
    (path / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": normalize}))
    save_file(tensors, path / "model.safetensors")
    modules = [{"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"}]
    if normalize:
        modules.append({"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"})
        (path / "1_Normalize").mkdir()
    (path / "modules.json").write_text(json.dumps(modules))
    return path


def table(rows: int = ROWS, dim: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def means(rows: np.ndarray, texts: list[str] = TEXTS) -> np.ndarray:
    """The mean of the word pieces' rows, in numpy."""
    return np.stack([rows[WORDS(text, add_special_tokens=False)["input_ids"]].mean(0) for text in texts])


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [torch.float32, torch.float16, torch.bfloat16])
def test_a_plain_table(kept: torch.dtype, tmp_path: Path) -> None:
    rows = table().to(kept)
    model = embedkit.load(folder_with(tmp_path, {"embeddings": rows}), device="cpu")
    assert (model.kind, model.dim, model.normalize, model.dtype) == ("static", 6, False, torch.float32)
    np.testing.assert_allclose(model.encode(TEXTS), means(rows.float().numpy()), atol=1e-6)


def test_weights_of_words_are_part_of_the_mean(tmp_path: Path) -> None:
    """model2vec multiplies each row by its token's weight and then takes the plain mean."""
    rows, weights = table(), torch.rand(ROWS, generator=torch.Generator().manual_seed(1)) + 0.1
    model = embedkit.load(folder_with(tmp_path, {"embeddings": rows, "weights": weights}), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), means((rows * weights[:, None]).numpy()), atol=1e-6)


def test_a_mapping_lets_words_share_a_row(tmp_path: Path) -> None:
    rows, mapping = table(9), torch.arange(ROWS) % 9
    weights = torch.linspace(0.5, 2, ROWS)
    tensors = {"embeddings": rows, "mapping": mapping, "weights": weights}
    model = embedkit.load(folder_with(tmp_path, tensors), device="cpu")
    expected = means(rows.numpy()[mapping.numpy()] * weights.numpy()[:, None])
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-6)
    model.save(tmp_path / "own")
    held = load_file(tmp_path / "own" / "model.safetensors")
    assert {name: tuple(t.shape) for name, t in held.items()} == {"embedding.weight": (ROWS, 6)}  # one row a word
    np.testing.assert_allclose(embedkit.load(tmp_path / "own", device="cpu").encode(TEXTS), expected, atol=1e-6)


def test_the_name_of_sentence_transformers_goes_first(tmp_path: Path) -> None:
    tensors = {"embedding.weight": table(seed=3), "embeddings": table(seed=4)}
    model = embedkit.load(folder_with(tmp_path, tensors), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), means(table(seed=3).numpy()), atol=1e-6)


def test_normalisation_is_what_the_listing_says(tmp_path: Path) -> None:
    model = embedkit.load(folder_with(tmp_path, {"embeddings": table()}, normalize=True), device="cpu")
    expected = means(table().numpy())
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-6)


def test_the_library_itself_reads_the_same(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = folder_with(tmp_path, {"embeddings": table()})
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(embedkit.load(folder, device="cpu").encode(TEXTS), theirs, atol=1e-6)


def test_an_unknown_word_counts_as_in_sentence_transformers(tmp_path: Path) -> None:
    """model2vec's own library leaves it out of the mean; the folder is one of sentence-transformers, which does not."""
    library = pytest.importorskip("sentence_transformers")
    folder = folder_with(tmp_path, {"embeddings": table()})
    ids = WORDS("the xyzzy dog", add_special_tokens=False)["input_ids"]
    ours = embedkit.load(folder, device="cpu").encode(["the xyzzy dog"])[0]
    np.testing.assert_allclose(ours, table().numpy()[ids].mean(0), atol=1e-6)
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode("the xyzzy dog", show_progress_bar=False)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    left_out = table().numpy()[[i for i in ids if i != WORDS.unk_token_id]].mean(0)
    assert np.abs(ours - left_out).max() > 0.1


@pytest.mark.parametrize(("normalize", "length"), [(True, None), (False, 3)])
def test_model2vec_finds_length_and_normalisation_where_it_looks(
    normalize: bool, length: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """model2vec takes both from the file of the model, and would else not normalise and cut at 512."""
    model = StaticEncoder(WORDS, 8, normalize=normalize, max_length=length).eval()
    model.save(tmp_path / "m")
    settings = json.loads((tmp_path / "m" / "config_sentence_transformers.json").read_text())
    assert (settings["normalize"], settings["max_length"]) == (normalize, length or 1_000_000)
    (tmp_path / "m" / "embedkit.json").unlink()
    again = embedkit.load(tmp_path / "m", device="cpu")
    assert (again.normalize, again.max_length) == (normalize, length or 1_000_000)
    assert "normalize" not in caplog.text  # it is no setting that nobody reads
    try:
        from model2vec import StaticModel
    except ImportError:
        return
    theirs = StaticModel.from_pretrained(tmp_path / "m", force_download=False)
    np.testing.assert_allclose(theirs.encode(TEXTS[:2]), model.encode(TEXTS[:2]), atol=1e-6)


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_fewer_rows_than_word_pieces_are_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{ROWS - 1} vectors for {ROWS} word pieces") as caught:
        embedkit.load(folder_with(tmp_path, {"embeddings": table(ROWS - 1)}))
    assert caught.value.where == str(tmp_path)


def test_more_rows_than_word_pieces_are_spare(tmp_path: Path) -> None:
    model = embedkit.load(folder_with(tmp_path, {"embeddings": table(ROWS + 5)}), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), means(table(ROWS + 5).numpy()), atol=1e-6)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"vectors": table()}, "holds no table of vectors"),
        ({"embeddings": table(9), "mapping": torch.full((ROWS,), 9)}, "cannot be loaded .*out of"),
        ({"embeddings": table(), "weights": torch.ones(3)}, "cannot be loaded"),
        ({"embeddings": torch.ones(ROWS)}, "cannot be loaded"),
    ],
)
def test_tables_that_are_none(tensors: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        embedkit.load(folder_with(tmp_path, tensors))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Dense", "LayerNorm"])
def test_layers_behind_a_table_are_refused(name: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"embeddings": table()})
    (folder / "1_Layer").mkdir()
    settings = {"in_features": 6, "out_features": 3, "dimension": 6}
    (folder / "1_Layer" / "config.json").write_text(json.dumps(settings))
    listing = json.loads((folder / "modules.json").read_text())
    listing.append({"idx": 1, "name": "1", "path": "1_Layer", "type": f"sentence_transformers.models.{name}"})
    (folder / "modules.json").write_text(json.dumps(listing))
    with pytest.raises(ModelError, match=f"a {name} module behind a static model is not supported"):
        embedkit.load(folder)


def test_a_cut_of_static_vectors_is_refused_with_the_way(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"embeddings": table()})
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"truncate_dim": 3}))
    with pytest.raises(ModelError, match="vectors of a static model are cut to 3 coordinates") as caught:
        embedkit.load(folder)
    assert "pass it to encode" in str(caught.value.remedy)


# --- lengths ---------------------------------------------------------------------------------------------------------


def test_a_limit_in_the_tokenizer_file_is_the_models(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"embeddings": table()})
    words = tiny.tokenizer().backend_tokenizer
    words.enable_truncation(3)
    (folder / "tokenizer.json").write_text(words.to_str())
    model = embedkit.load(folder, device="cpu")
    assert model.max_length == 3
    long = "the big red dog is running"
    np.testing.assert_allclose(model.encode([long]), means(table().numpy(), ["the big red"]), atol=1e-6)
    assert embedkit.load(folder, device="cpu", max_length=2).max_length == 2


def test_a_text_without_a_limit_is_read_to_its_end(tmp_path: Path) -> None:
    model = embedkit.load(folder_with(tmp_path, {"embeddings": table()}), device="cpu")
    long = "the dog " * 600 + "sings"
    np.testing.assert_allclose(model.encode([long]), means(table().numpy(), [long]), atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"ngrams": 2, "buckets": 40}, {"max_length": 4}, {"normalize": False}])
def test_embedkits_own_static_folder_comes_back(settings: dict[str, Any], tmp_path: Path) -> None:
    model = StaticEncoder(tiny.tokenizer(), 8, prompts={"q": "who "}, default_prompt="q", **settings).eval()
    model.save(tmp_path / "m")
    again = embedkit.load(tmp_path / "m", device="cpu")
    assert again.hash() == model.hash()
    assert again.spec() == model.spec()
    np.testing.assert_array_equal(again.encode(tiny.SENTENCES), model.encode(tiny.SENTENCES))
