"""The tokenizer's memory of chunks: equal to the tokenizer for any text, bounded, safe in threads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from embedkit.models.inputs import cached_tokenizer
from embedkit.models.inputs.cached_tokenizer import ChunkTokenizer, is_local
from embedkit.models.inputs.tokens import TextTokenizer
from tests.helpers import tiny

PIECES = ["[UNK]", "un", "##believ", "##able", "gu", "##itar", "##s", "a", "##a", "b", "!", ",", "dog", "é"]


def core(**parts: Any) -> Tokenizer:
    """A WordPiece tokenizer as BERT's."""
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer = parts.get("normalizer", normalizers.BertNormalizer())
    made.pre_tokenizer = parts.get("split", pre_tokenizers.BertPreTokenizer())
    return made


def plain(tokenizer: Tokenizer, text: str, before: list[int], after: list[int], room: int, left: bool) -> list[int]:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    kept = ids if len(ids) <= room else (ids[len(ids) - room :] if left else ids[:room])
    return [*before, *kept, *after]


texts_of = st.lists(
    st.text(alphabet=st.sampled_from("ab! ,\t\nunbelievableguitarsdogé  "), max_size=40), min_size=1, max_size=8
)


@given(texts_of, st.integers(2, 12), st.booleans())
def test_it_equals_the_tokenizer(texts: list[str], length: int, left: bool) -> None:
    tokenizer = core()
    quick = ChunkTokenizer(tokenizer, [101], [102], length, cut_left=left)
    for _ in range(2):  # from the tokenizer, then from memory
        rows = quick(texts).rows()
        assert rows == [plain(tokenizer, text, [101], [102], length - 2, left) for text in texts]


@given(texts_of)
def test_without_special_tokens(texts: list[str]) -> None:
    tokenizer = core()
    assert ChunkTokenizer(tokenizer, [], [], 1000)(texts).rows() == [tokenizer.encode(text).ids for text in texts]


def test_room_for_special_tokens_alone() -> None:
    assert ChunkTokenizer(core(), [101], [102], 2)(["a b a"]).rows() == [[101, 102]]
    assert ChunkTokenizer(core(), [101], [102], 1)(["a"]).rows() == [[101, 102]]


def test_the_memory_starts_anew_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_tokenizer, "MOST_CHUNKS", 4)
    tokenizer = core()
    quick = ChunkTokenizer(tokenizer, [], [], 100)
    for text in ("a b", "dog guitars", "a unbelievable b", "b b b", "dog a b guitars unbelievable !"):
        assert quick([text]).rows() == [tokenizer.encode(text).ids]
        assert len(quick._memory) <= 6


def test_a_long_chunk_is_computed_and_not_kept() -> None:
    tokenizer = core()
    quick = ChunkTokenizer(tokenizer, [], [], 1000)
    long = "a" * (cached_tokenizer.LONGEST_CHUNK + 1)
    for _ in range(2):
        assert quick([f"dog {long} b"]).rows() == [tokenizer.encode(f"dog {long} b").ids]
    assert long not in quick._memory
    assert {"dog", "b"} <= set(quick._memory)


def test_threads_share_a_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_tokenizer, "MOST_CHUNKS", 50)
    tokenizer = core()
    quick = ChunkTokenizer(tokenizer, [1], [2], 30)
    rng = np.random.default_rng(0)
    batches = [[" ".join(rng.choice(list("ab!"), 12)) + f" un{i}" for i in range(k, k + 20)] for k in range(0, 400, 20)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(quick, batches))
    for batch, result in zip(batches, results, strict=True):
        assert result.rows() == [plain(tokenizer, text, [1], [2], 28, False) for text in batch]


@pytest.mark.parametrize(
    ("parts", "local"),
    [
        ({}, True),
        ({"normalizer": normalizers.Lowercase()}, True),
        ({"normalizer": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])}, True),
        ({"split": pre_tokenizers.WhitespaceSplit()}, True),
        ({"normalizer": normalizers.Replace(" ", "_")}, False),
        ({"normalizer": normalizers.Strip()}, False),
        ({"split": pre_tokenizers.ByteLevel()}, False),
        ({"split": pre_tokenizers.Metaspace()}, False),
    ],
)
def test_which_rules_look_across_a_space(parts: dict[str, Any], local: bool) -> None:
    assert is_local(core(**parts).to_str()) == local


def test_an_added_token_with_a_space_is_not_local() -> None:
    rules = json.loads(core().to_str())
    rules["added_tokens"] = [{"content": "New York"}]
    assert not is_local(json.dumps(rules))
    rules["added_tokens"] = [{"content": "[MASK]"}]
    assert is_local(json.dumps(rules))


def test_a_bpe_model_is_not_local() -> None:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    assert not is_local(made.to_str())


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_models_tokenizer_takes_the_quick_way_and_its_side(side: str) -> None:
    source = tiny.tokenizer()
    source.truncation_side = side
    quick = TextTokenizer(source, 6)
    assert quick._quick is not None
    texts = ["the dog is running in the green park", "a man", ""]
    assert quick(texts).rows() == source(texts, truncation=True, max_length=6)["input_ids"]
    quick.max_length = 4
    assert quick(texts).rows() == source(texts, truncation=True, max_length=4)["input_ids"]
