"""Static encoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embedkit.config.model import ModelConfig
from embedkit.errors import ModelError
from embedkit.factory import build
from embedkit.formats import load
from embedkit.models.modules.static import StaticEncoder, word_ngrams
from tests.helpers import tiny

TEXTS = tiny.SENTENCES


def static(seed: int = 0, **settings) -> StaticEncoder:
    torch.manual_seed(seed)
    return StaticEncoder(tiny.tokenizer(), 16, **settings).eval()


def test_mean_of_word_pieces() -> None:
    model = static()
    table = model.embedding.weight.detach()
    expected = []
    for text in TEXTS:
        ids = tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]
        expected.append(table[ids].mean(0) if ids else torch.zeros(16))
    torch.testing.assert_close(model(model.prepare(TEXTS)).detach(), torch.stack(expected))
    assert np.isfinite(model.encode([""])).all()


def test_word_ngrams_by_hand() -> None:
    continues = np.array([False] * 5 + [True] * 2)
    # texts: "0 1+5 2", "" and "1+5 2": words are (0) (1 5) (2), (1 5) (2)
    ids, offsets = np.array([0, 1, 5, 2, 1, 5, 2]), np.array([0, 4, 4, 7])
    hashes, owner = word_ngrams(ids, offsets, continues, 3)
    assert owner.tolist() == [0, 0, 2, 0]
    two_a, two_b, two_c, three = hashes.tolist()
    assert two_b == two_c  # the same two words
    assert len({two_a, two_b, three}) == 3
    swapped, _ = word_ngrams(np.array([2, 1, 5]), np.array([0, 3]), continues, 2)
    assert swapped[0] != two_b
    other_cut, _ = word_ngrams(np.array([1, 2, 5]), np.array([0, 3]), continues, 2)  # (1) (2 5)
    assert other_cut[0] != two_b
    assert word_ngrams(np.zeros(0, dtype=np.int64), np.array([0, 0]), continues, 2)[0].size == 0


def test_ngrams_in_the_bag() -> None:
    model = static(ngrams=2, buckets=50)
    pieces = len(model.tokenizer)
    assert model.embedding.weight.shape == (pieces + 50, 16)
    inputs = model.prepare(["the big dog", "", "dog"])
    assert inputs.costs.tolist() == [3 + 2, 0, 1]
    first = inputs.rows()[0]
    assert all(token < pieces for token in first[:3])
    assert all(pieces <= token < pieces + 50 for token in first[3:])
    alone = model.prepare(["dog"]).rows()[0]
    assert inputs.rows()[2] == alone
    assert not np.allclose(model.encode(["big dog"]), model.encode(["dog big"]))


@pytest.mark.parametrize("ngrams", [1, 3])
def test_round_trip(ngrams: int, tmp_path: Path) -> None:
    model = static(ngrams=ngrams, buckets=64, max_length=4, prompts={"q": "the "}, default_prompt="q")
    model.save(tmp_path / "m")
    again = load(tmp_path / "m", device="cpu")
    assert again.hash() == model.hash()
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
    assert again.describe() == model.describe()


def test_sentence_transformers_both_ways(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = static(max_length=5, prompts={"q": "the "})
    model.save(tmp_path / "m")
    theirs = library.SentenceTransformer(str(tmp_path / "m"), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    np.testing.assert_allclose(theirs.encode(TEXTS, prompt_name="q"), model.encode(TEXTS, prompt="q"), atol=1e-6)
    theirs.save(str(tmp_path / "theirs"))
    back = load(tmp_path / "theirs", device="cpu")
    spoken = {name: text for name, text in back.prompts.items() if text}  # the library adds two empty ones
    assert {**back.spec(), "prompts": spoken} == model.spec()
    np.testing.assert_allclose(back.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_ngrams_are_refused_there(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    static(ngrams=2, buckets=8).save(tmp_path / "m")
    with pytest.raises(ValueError, match="not part of Sentence Transformers"):
        library.SentenceTransformer(str(tmp_path / "m"), device="cpu")


def test_built_and_trained(tmp_path: Path) -> None:
    tokenizer = str(tiny.tokenizer_folder(tmp_path / "t"))
    model = build(ModelConfig(kind="static", tokenizer=tokenizer, dim=8, ngrams=2, buckets=32), 5)
    assert model.hash() == build(ModelConfig(kind="static", tokenizer=tokenizer, dim=8, ngrams=2, buckets=32), 5).hash()
    inputs, target = model.prepare(TEXTS[:3]), torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.3)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = (model(inputs) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_table_and_tokenizer_must_fit(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    static().save(tmp_path / "m")
    save_file({"embedding.weight": torch.zeros(3, 16)}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(ModelError, match="3 vectors for"):
        load(tmp_path / "m")
