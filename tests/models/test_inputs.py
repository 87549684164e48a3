"""Ragged inputs, prompts and templates."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from embedkit.errors import DataError, UserError
from embedkit.factory.tokenizer import open_tokenizer
from embedkit.models.inputs.cached_tokenizer import is_local
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.inputs.tokens import TextTokenizer, resolve_prompt
from tests.helpers import tiny

ROWS = [[5, 6, 7], [8], [], [9, 10]]


def test_inputs_by_hand() -> None:
    inputs = Inputs.of(ROWS)
    assert (len(inputs), inputs.tokens, inputs.costs.tolist()) == (4, 6, [3, 1, 0, 2])
    assert inputs.rows() == ROWS
    assert inputs.select([3, 0, 3]).rows() == [ROWS[3], ROWS[0], ROWS[3]]
    assert inputs.select(slice(1, 3)).rows() == ROWS[1:3]
    assert inputs.select(np.array([], dtype=np.int64)).rows() == []
    assert Inputs.concat([inputs, inputs.select([1])]).rows() == [*ROWS, ROWS[1]]
    assert inputs.to("cpu").rows() == ROWS


def test_marks_travel_with_their_rows() -> None:
    inputs = Inputs.of(ROWS, marks=[2, 0, 0, 1])
    both = Inputs.concat([inputs.select([3, 0]), inputs.select([1])])
    assert both.marks is not None
    assert both.marks.tolist() == [1, 2, 0]


def test_marked_and_unmarked_do_not_mix() -> None:
    with pytest.raises(UserError, match="cannot be joined"):
        Inputs.concat([Inputs.of(ROWS), Inputs.of(ROWS, marks=[0, 0, 0, 0])])
    empty = Inputs.of([])
    assert Inputs.concat([empty, Inputs.of(ROWS, marks=[2, 0, 0, 1])]).marks is not None


def test_resolve_prompt() -> None:
    prompts = {"query": "query: ", "none": ""}
    assert resolve_prompt(None, prompts, None) == ""
    assert resolve_prompt(None, prompts, "query") == "query: "
    assert resolve_prompt("", prompts, "query") == ""
    assert resolve_prompt("query", prompts, None) == "query: "
    assert resolve_prompt("say: ", prompts, None) == "say: "
    with pytest.raises(UserError, match="did you mean 'query'"):
        resolve_prompt("qury", prompts, None)


def test_ids_equal_the_transformers_call() -> None:
    source = tiny.tokenizer()
    ours = TextTokenizer(source, 6)
    texts = [*tiny.SENTENCES, "Zebra , unknown"]
    expected = source(texts, truncation=True, max_length=6)["input_ids"]
    assert ours(texts).rows() == expected
    assert ours(texts, "the ").rows() == source(["the " + t for t in texts], truncation=True, max_length=6)["input_ids"]
    ours.max_length = 4
    assert max(map(len, ours(texts).rows())) == 4


def test_template_shortens_only_the_text() -> None:
    source = tiny.tokenizer()
    ours = TextTokenizer(source, 12)
    template = 'this sentence : "{}" means [MASK] .'
    words = source.convert_tokens_to_ids
    before = [2, *words(["this", "sentence", ":", '"'])]
    after = [*words(['"', "means", "[MASK]", "."]), 3]
    inputs = ours(["a dog", "a man is playing guitar on the street"], template)
    assert inputs.rows() == [[*before, *words(["a", "dog"]), *after], [*before, *words(["a", "man"]), *after]]
    assert inputs.marks is not None
    assert [row[mark] for row, mark in zip(inputs.rows(), inputs.marks, strict=True)] == [4, 4]
    with pytest.raises(UserError, match="no room"):
        TextTokenizer(source, 10)(["a"], template)
    with pytest.raises(UserError, match="more than one"):
        ours(["a"], "{} and {}")


def test_a_mask_in_the_text_is_not_the_marked_one() -> None:
    model = tiny.text_encoder(pooling="mask", prompts={"t": "{} means [MASK] ."}, default_prompt="t")
    inputs = model.prepare(["the [MASK] dog"])
    assert inputs.marks is not None
    assert inputs.marks.tolist() == [5]


def test_mask_before_the_text() -> None:
    model = tiny.text_encoder(pooling="mask", prompts={"t": "[MASK] : {} ."}, default_prompt="t")
    marks = model.prepare(["the dog", ""]).marks
    assert marks is not None
    assert marks.tolist() == [1, 1]


@pytest.mark.parametrize("bad", [None, 3, b"x", "a \ud800 b"])
def test_wrong_items_are_named(bad: object) -> None:
    model = tiny.text_encoder()
    with pytest.raises(DataError, match=r"inputs\[1\]"):
        model.prepare(["a", bad])  # type: ignore[list-item]


def test_one_string_is_no_list_for_prepare() -> None:
    with pytest.raises(DataError, match=r"pass \[text\]"):
        tiny.text_encoder().prepare("a dog")


def test_a_tokenizer_without_rust_core() -> None:
    from transformers import ByT5Tokenizer

    source = ByT5Tokenizer()
    texts = ["a dog", "", "größer"]
    found = TextTokenizer(source, 5)(texts)
    assert found.rows() == source(texts, truncation=True, max_length=5)["input_ids"]
    assert TextTokenizer(source, 5, special=False)(["dog"]).rows() == [[ord(c) + 3 for c in "dog"]]
    assert TextTokenizer(source, 9)(["dog"], "<{}>").rows() == [[*(ord(c) + 3 for c in "<dog>"), 1]]


def test_odd_characters_are_texts() -> None:
    rows = tiny.text_encoder().prepare(["\0", "\u200b", "😀 dog", "a\nb", "\ufeffdog"]).rows()
    assert all(row[0] == 2 and row[-1] == 3 for row in rows)


def test_prepare_from_several_threads() -> None:
    model = tiny.text_encoder()
    texts = [f"the dog {i % 10} and the man" for i in range(2000)]
    expected = model.prepare(texts).ids
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(model.prepare(texts).ids)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all(torch.equal(ids, expected) for ids in found)


PIECES = [
    "a", "dog", "Dog's", "größer", "naïve", "don't", "x" * 70, "[MASK]", "[SEP]dog", "日本語", "e\u0301", "\u0301e",
    "a\tb", "a\nb", "a\x1cb", "a\u00a0b", "a\u2028b", "\u00b4", "ﬁ", "İstanbul", "ΟΔΟΣ", "😀!", "--", "3.14", "",
    "\x00", "\ufeff", "un", "believable,unbelievable",
]  # fmt: skip


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
def test_chunks_from_memory_equal_the_tokenizer(special: bool, side: str, shared: Path) -> None:
    source = open_tokenizer(str(shared / "data" / "tokenizers" / "bert-base-uncased" / "vocab.txt"))
    source.truncation_side = side
    ours = TextTokenizer(source, 9, special=special)
    assert ours._quick is not None
    draws = np.random.default_rng(0)
    texts = [" ".join(draws.choice(PIECES, size=draws.integers(0, 7))) for _ in range(600)]
    texts += ["", " ", "   a  dog ", " \u0301x"]
    expected = source(texts, truncation=True, max_length=9, add_special_tokens=special)["input_ids"]
    for part in (slice(0, 300), slice(None)):
        assert ours(texts[part]).rows() == expected[part]


def test_memory_of_chunks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedkit.models.inputs.cached_tokenizer.MOST_CHUNKS", 20)
    ours = TextTokenizer(tiny.tokenizer(), 30)
    assert ours._quick is not None
    for start in range(0, 100, 10):
        texts = [f"dog {i} " + "y" * 100 for i in range(start, start + 10)]
        assert ours(texts).rows() == tiny.tokenizer()(texts)["input_ids"]
        assert len(ours._quick._memory) <= 20
        assert all(len(chunk) <= 64 for chunk in ours._quick._memory)


def test_new_chunks_come_to_the_memory_that_is_there() -> None:
    source = tiny.tokenizer()
    ours = TextTokenizer(source, 300)
    assert ours._quick is not None
    memory = ours._quick._memory
    long = "y" * 100
    for texts in (["a dog", ""], [f"dog {long}", "man"], ["a man"]):
        assert ours(texts).rows() == source(texts)["input_ids"]
    assert ours._quick._memory is memory, "no copy of all that is known for one new chunk"
    assert set(memory) == {"a", "dog", "", "man"}


def test_a_full_memory_starts_anew_and_is_right_in_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedkit.models.inputs.cached_tokenizer.MOST_CHUNKS", 50)
    ours = TextTokenizer(tiny.tokenizer(), 30)
    texts = [[f"the dog {number % 7} {number + start}" for number in range(20)] for start in range(0, 400, 10)]
    expected = [tiny.tokenizer()(batch)["input_ids"] for batch in texts]
    wrong: list[int] = []

    def work(order: np.ndarray) -> None:
        wrong.extend(place for place in order.tolist() if ours(texts[place]).rows() != expected[place])

    draws = np.random.default_rng(0)
    threads = [threading.Thread(target=work, args=(draws.permutation(len(texts)),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_tokenizers_that_look_across_spaces_are_told_apart() -> None:
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

    core = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    assert not is_local(core.to_str())  # nothing splits at spaces
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert is_local(core.to_str())
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("a b", "c")])
    assert not is_local(core.to_str())
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    assert is_local(core.to_str())
    core.add_tokens([AddedToken("two words")])
    assert not is_local(core.to_str())
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel()
    assert not is_local(byte_level.to_str())
