"""Order, blocks, progress, images and processes of the embedder."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from embedkit.errors import DataError, NonFiniteError, UserError
from embedkit.evaluation.core.embedder import FEWEST, Embedder
from embedkit.evaluation.core.inputs import EncodedImage
from embedkit.evaluation.core.provenance import describe_model, model_key
from embedkit.evaluation.core.task import Request
from tests.evaluation.toys import BagOfWords, sentences


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_vectors_are_in_the_order_asked_for(block: int) -> None:
    items = sentences(50)
    said: list[tuple[int, int]] = []
    embed = Embedder(BagOfWords(), block=block, progress=lambda done, total: said.append((done, total)))
    embed.prepare([Request(items[:30]), Request(items[20:])])
    assert np.array_equal(embed(items), BagOfWords().encode(items))
    distinct = len(set(items))
    assert said[-1] == (distinct, distinct)
    assert len(said) == -(-distinct // block)


def test_blocks_give_all_vectors_without_keeping_them() -> None:
    items, model = sentences(20), BagOfWords()
    parts = list(Embedder(model).blocks(items, 8))
    assert [start for start, _ in parts] == [0, 8, 16]
    assert np.array_equal(np.concatenate([v for _, v in parts]), BagOfWords().encode(items))


@pytest.mark.parametrize(
    "items",
    [
        ["abc", "bcd", "same", "same"],  # a block of one document twice
        ["abc", "bcd", "cde", "Foo", "foo"],  # a last block, and a toy that knows no capitals
        ["x", "X"],
        ["same"] * (3 * FEWEST),
        [letters for a in "sS" for b in "aA" for c in "mM" for d in "eE" for letters in (a + b + c + d,)] + ["other"],
    ],
)
def test_documents_that_mean_the_same_end_no_run(items: list[str]) -> None:
    parts = list(Embedder(BagOfWords()).blocks(items, 2))
    assert np.array_equal(np.concatenate([v for _, v in parts]), BagOfWords().encode(items))
    assert len(Embedder(BagOfWords())(items)) == len(items)


class Collapsed(BagOfWords):
    """Gives nearly the same vector for every input."""

    def encode(self, inputs: Any, **options: Any) -> Any:
        return np.ones((len(inputs), 4), dtype=np.float32) + 1e-7 * (len(inputs) % 2)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_collapsed_model_is_told_however_its_inputs_come(size: int) -> None:
    items = [f"text {number}" for number in range(FEWEST)]
    for _ in Embedder(Collapsed()).blocks(items[1:], size):  # too few to say so
        pass
    with pytest.raises(NonFiniteError, match="different inputs are all the same"):
        for _ in Embedder(Collapsed()).blocks(items, size):
            pass
    embed = Embedder(Collapsed())
    for item in items[1:]:
        embed([item])
    with pytest.raises(NonFiniteError, match="different inputs are all the same"):
        embed(items[:1])


def test_one_kind_of_input_can_collapse() -> None:
    class Half(BagOfWords):
        def encode(self, inputs: Any, **options: Any) -> Any:
            return np.ones((len(inputs), 32), dtype=np.float32) if options else super().encode(inputs)

    items, embed = [f"text {number}" for number in range(FEWEST)], Embedder(Half())
    embed(items)
    with pytest.raises(NonFiniteError, match="different inputs are all the same"):
        embed(items, "a prompt that fills all the room")


def test_tensors_of_any_precision_are_taken() -> None:
    class Half(BagOfWords):
        def encode(self, inputs: Any, **options: Any) -> Any:
            return torch.from_numpy(super().encode(inputs)).to(torch.bfloat16).requires_grad_()

    vectors = Embedder(Half())(["a cat", "a dog"])
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, BagOfWords().encode(["a cat", "a dog"]), rtol=1e-2)


def test_changing_width_is_refused() -> None:
    class Odd(BagOfWords):
        def encode(self, inputs: Any, **options: Any) -> Any:
            return super().encode(inputs)[:, : 8 + len(inputs)]

    with pytest.raises(UserError, match="different sizes"):
        Embedder(Odd(), block=2)(["a b", "c d", "e f"])


def _png(mode: str, color: Any) -> bytes:
    handle = io.BytesIO()
    Image.new(mode, (2, 2), color).save(handle, format="PNG")
    return handle.getvalue()


def test_images_are_decoded_to_rgb_on_white_and_encoded_once() -> None:
    class Mean:
        seen = 0

        def encode(self, inputs: Any, **options: Any) -> Any:
            self.seen += len(inputs)
            return np.array([np.asarray(image).mean(axis=(0, 1)) for image in inputs], dtype=np.float32)

    images = [EncodedImage(_png(*c)) for c in (("RGBA", (255, 0, 0, 0)), ("L", 7), ("RGB", (1, 2, 3)), ("L", 7))]
    model = Mean()
    assert Embedder(model)(images).tolist() == [[255, 255, 255], [7, 7, 7], [1, 2, 3], [7, 7, 7]]
    assert model.seen == 3
    with pytest.raises(DataError, match=r"cat\.png: not a readable image"):
        Embedder(model)([EncodedImage(b"no image", "cat.png")])


def test_description_of_a_plain_module_changes_with_its_weights() -> None:
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    keys = [model_key(describe_model(m)) for m in (first, second, first)]
    assert keys[0] == keys[2] != keys[1]
    assert model_key(describe_model(BagOfWords())) is None
    assert model_key({"hash": "a", "name": "x"}) == model_key({"hash": "a", "name": "y"})
    assert model_key({"hash": "a", "max_length": 8}) != model_key({"hash": "a", "max_length": 9})


def test_a_named_prompt_reaches_the_model_as_text() -> None:
    model = BagOfWords()
    model.prompts = {"query": "find: "}  # type: ignore[attr-defined]
    embed = Embedder(model, prompt="query")
    embed(["a cat"])
    embed(["a cat"], "own words: ")
    assert model.prompts_used == ["find: ", "own words: "]
