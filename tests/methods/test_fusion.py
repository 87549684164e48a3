"""Matching and captioning: layers against open_clip's, drawing and masks against loops; chunks change nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embedkit.errors import ModelError, RecipeError
from embedkit.methods import methods
from embedkit.models.heads import fusion
from embedkit.models.heads.cross_attention import CrossAttention, TokenPool
from embedkit.models.heads.fusion import CaptionDecoder, FusionEncoder, soft_masks
from embedkit.objectives.compose.drawn_negatives import drawn_negatives
from embedkit.training.loop.cache import Chunking
from tests.methods.matrix import gradients
from tests.methods.test_patch_terms import case, draw

RECIPES = ("soft-mask", "coca")
open_clip_transformer = pytest.importorskip("open_clip.transformer")


def filled(module: torch.nn.Module) -> Any:
    """The module in float64 with numbers everywhere, biases and norms too."""
    generator = torch.Generator().manual_seed(5)
    for parameter in module.double().parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return module


def test_a_caption_decoder_is_open_clips_multimodal_transformer() -> None:
    theirs = filled(open_clip_transformer.MultimodalTransformer(16, 2, 4, context_length=6, output_dim=11))
    ours = CaptionDecoder(inputs=16, width=16, layers=2, heads=4, words=11).double()
    state = theirs.state_dict()
    ours.outputs.load_state_dict({"weight": state.pop("text_projection").T})
    ours.layers.load_state_dict(state)  # the same names
    texts, images, ids = (
        draw(3, 6, 16),
        draw(3, 5, 16, seed=1),
        torch.tensor([[1, 4, 9, 2, 0, 0], [1, 7, 2, 0, 0, 0], [1, 3, 3, 3, 3, 2]]),
    )
    logits = theirs(images, texts[:, :-1])
    torch.testing.assert_close(ours(texts[:, :-1], images), logits, rtol=1e-10, atol=1e-10)
    loss = open_clip_coca_loss(logits.detach(), ids[:, 1:])
    assert float(ours.loss(texts, ids, ids > 0, images)) / int((ids[:, 1:] > 0).sum()) == pytest.approx(loss, rel=1e-10)


def open_clip_coca_loss(logits: torch.Tensor, labels: torch.Tensor) -> float:
    from open_clip.loss import CoCaLoss

    pairs = draw(3, 4), draw(3, 4, seed=1)
    return float(CoCaLoss(caption_loss_weight=1.0, clip_loss_weight=0)(*pairs, logits, labels, torch.tensor(1.0))[1])


def test_no_word_sees_those_behind_it() -> None:
    decoder = filled(CaptionDecoder(inputs=6, width=8, layers=2, heads=2, words=5))
    texts, images = draw(1, 4, 6), draw(1, 3, 8, seed=1)
    other = texts.clone()
    other[:, 2:] += 1
    torch.testing.assert_close(decoder(texts, images)[:, :2], decoder(other, images)[:, :2])
    assert not torch.allclose(decoder(texts, images)[:, 2:], decoder(other, images)[:, 2:])


def test_fusion_reads_no_padding_and_its_record_changes_nothing() -> None:
    encoder = filled(FusionEncoder(inputs=6, width=8, layers=2, heads=2))
    texts, images, real = draw(2, 4, 6), draw(2, 3, 8, seed=1), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    logits, record = encoder(texts, real, images), []
    torch.testing.assert_close(encoder(texts[:1, :2], real[:1, :2], images[:1]), logits[:1])
    torch.testing.assert_close(encoder(texts, real, images, record), logits)
    assert [tuple(p.shape) for p in record] == [(2, 2, 5, 3)] * 2
    torch.testing.assert_close(record[0].sum(dim=3), torch.ones(2, 2, 5, dtype=torch.float64))


def test_pooled_patches_are_means_by_attention_of_learned_queries() -> None:
    pool = filled(TokenPool(6, 4, queries=2, heads=1))
    tokens = draw(1, 5, 6)
    patches = pool.inputs(pool.norm(tokens))[0]
    query, key, value = pool.attn.in_proj_weight.split(4)
    biases = pool.attn.in_proj_bias.split(4)
    for found, start in zip(pool(tokens)[0], pool.queries, strict=True):
        q = query @ pool.query_norm(start) + biases[0]
        weights = np.array([math.exp(float(q @ (key @ patch + biases[1])) / 2) for patch in patches])
        mean = sum(
            float(w) * (value @ patch + biases[2]) for w, patch in zip(weights / weights.sum(), patches, strict=True)
        )
        torch.testing.assert_close(found, pool.outputs(pool.attn.out_proj(mean)))


def test_masks_are_what_a_change_of_attention_does_to_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grad-CAM by finite differences: the probabilities of the middle layer are moved one by one."""
    encoder = filled(FusionEncoder(inputs=6, width=8, layers=2, heads=2))
    texts, images, real, word = draw(1, 3, 6), draw(1, 4, 8, seed=1), torch.ones(1, 3, dtype=torch.bool), 2
    found = soft_masks(encoder, texts, real, images, torch.tensor([word]))[0]
    record: list[torch.Tensor] = []
    encoder(texts, real, images, record)
    softmax, moved = torch.Tensor.softmax, torch.zeros_like(record[0])

    def answer() -> float:
        seen: list[torch.Tensor] = []

        def shifted(scores: torch.Tensor, dim: int) -> torch.Tensor:
            seen.append(scores)
            return softmax(scores, dim) + (moved if len(seen) == 1 else 0)  # of the first layer of two

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "softmax", shifted)
            return float(encoder(texts, real, images, [])[0, 1])

    wanted = np.zeros(4)
    for head in range(2):
        for patch in range(4):
            sides = []
            for step in (1e-6, -1e-6):
                moved[0, head, word + 1, patch] = step
                sides.append(answer())
            moved.zero_()
            slope = (sides[0] - sides[1]) / 2e-6
            wanted[patch] += float(record[0][0, head, word + 1, patch]) * max(slope, 0.0)
    wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)
    assert wanted.max() == 1.0


def test_negatives_are_drawn_in_proportion_to_their_exponentials() -> None:
    anchors, others = draw(5, 3), draw(5, 3, seed=1)
    rows, image = torch.arange(5), torch.tensor([0, 1, 2, 0, 4])
    counts, rounds = np.zeros((5, 5)), 3000
    for seed in range(rounds):
        found = drawn_negatives(anchors, others, [rows, image], 0.5, torch.Generator().manual_seed(seed))
        counts[np.arange(5), found] += 1
    weights = np.array([[math.exp(float(F.cosine_similarity(a, b, dim=0)) / 0.5) for b in others] for a in anchors])
    weights[np.equal.outer(image.numpy(), image.numpy())] = 0
    np.testing.assert_allclose(counts / rounds, weights / weights.sum(axis=1, keepdims=True), atol=0.04)
    assert (counts[weights == 0] == 0).all()
    alone = drawn_negatives(anchors, others, [torch.zeros(5)], 0.5, torch.Generator())
    assert alone.tolist() == [-1] * 5


@pytest.mark.parametrize("chunking", [Chunking(), Chunking(size=5, keep=1)])
def test_the_matching_loss_is_the_mean_over_right_and_wrong_pairs(
    monkeypatch: pytest.MonkeyPatch, chunking: Chunking
) -> None:
    given = case("soft-mask")
    given["auxiliary"][0]["soft_masks"] = False
    base = gradients({**given, "auxiliary": []})[0]

    def constant(self: Any, states: Any, real: Any, memory: Any, record: Any = None) -> Any:
        return (
            torch.tensor([0.0, 1.0], dtype=torch.float64)
            + 0 * memory.sum()
            + 0 * self.inputs(states).sum()
            + torch.zeros(len(memory), 1)
        )

    monkeypatch.setattr(FusionEncoder, "forward", constant)
    seen: list[torch.Tensor] = []
    real_loss = fusion.match_loss
    monkeypatch.setattr(fusion, "match_loss", lambda logits, label: seen.append(label) or real_loss(logits, label))
    found = gradients(given, chunking)[0]
    labels = torch.cat(seen)
    right, wrong = int((labels == 1).sum()), int((labels == 0).sum())
    assert right == 12
    assert 0 < wrong <= 24  # captions that many images share have no wrong partner among them
    loss = (right * math.log(1 + math.exp(-1)) + wrong * math.log(1 + math.exp(1))) / (right + wrong)
    assert found - base == pytest.approx(loss, rel=1e-9)


def test_all_of_a_term_learns_and_the_towers_through_it() -> None:
    for name in RECIPES:
        given = case(name)
        given["auxiliary"][0]["weight"] = 0.0
        without, found = gradients(given)[1], gradients(case(name))[1]
        of_parts = [key for key in found if "parts." in key]
        assert of_parts
        assert all(float(found[key].norm()) > 0 for key in of_parts if not key.endswith("in_proj_bias")), name
        assert any("model.text" in key and not torch.equal(found[key], without[key]) for key in found)
        assert any("model.image" in key and not torch.equal(found[key], without[key]) for key in found)


def test_what_does_not_fit_is_told_before_training() -> None:
    given = case("coca")
    given["model"]["towers"]["text"] = case("soft-mask")["model"]["towers"]["text"]
    with pytest.raises(ModelError, match="would see the words that it is to say; use a causal one"):
        gradients(given)
    with pytest.raises(RecipeError, match="set layers: 2 or more"):
        methods["image-text-matching"](layers=1, soft_masks=True)
    with pytest.raises(RecipeError, match="put it beside another method"):
        gradients({**case("soft-mask"), "method": "image-text-matching", "auxiliary": []})
    wrong = case("soft-mask")
    wrong["auxiliary"][0]["view"] = "text1"
    with pytest.raises(RecipeError, match="no view 'text1' of texts"):
        gradients(wrong)
    static = case("soft-mask")
    static["model"]["towers"]["text"] = {"kind": "static", "tokenizer": "builtin-shapes", "dim": 16}
    with pytest.raises(ModelError, match="a static text tower has no vectors of tokens"):
        gradients(static)


def test_layers_of_one_width_have_heads_that_divide_it() -> None:
    with pytest.raises(ModelError, match="3 heads do not divide a width of 8"):
        CrossAttention(8, 1, 3)
    for name in ("image-text-matching", "captioning", "masked-pixels"):
        with pytest.raises(RecipeError, match="method.heads: 3 heads do not divide a width of 8; set it to 2"):
            methods[name](width=8, heads=3)
