"""Learned words of CoOp and GOPro: the loss against loops, what is frozen, what leaves, what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedkit
from embedkit.config.model import ModelConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.data.schema.targets import TargetFacts
from embedkit.errors import DataError, ModelError, RecipeError
from embedkit.factory import build
from embedkit.methods import methods
from embedkit.methods.branches.contexts import Generator, class_loss, learn_context, shifted_texts
from embedkit.training.setup import build_method, open_rows
from tests.training import runs

CLASSES = ("circle", "big_square", "ring")


def small_clip(tokenizer: str = "builtin-shapes") -> Any:
    text = {
        "config": {
            "model_type": "clip_text_model", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 64, "max_position_embeddings": 24},
        "tokenizer": tokenizer,
    }  # fmt: skip
    image = {"config": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}}
    towers: Any = {"dim": 16, "text": text, "image": image}
    return build(ModelConfig(kind="dual", towers=towers), 0).double().eval()


def adapted(name: str, model: Any, **settings: Any) -> Any:
    method = methods[name](**settings)
    method.learn_targets({"class:label_name": TargetFacts(CLASSES)})
    method.adapt(model)
    return method


def text_by_hand(model: Any, context: torch.Tensor, name: str) -> torch.Tensor:
    """Start, context, name, end through transformers' own layers with a causal mask, read at the end, projected."""
    encoder = model.text.encoder
    tokenizer = model.text.tokenizer
    table = encoder.get_input_embeddings().weight
    ids = tokenizer(name, add_special_tokens=False)["input_ids"]
    start, end = table[[tokenizer.cls_token_id]], table[[tokenizer.sep_token_id]]
    hidden = torch.cat([start, context, table[ids], end])[None]
    length = hidden.shape[1]
    hidden = hidden + encoder.embeddings.position_embedding.weight[:length]
    mask = torch.full((length, length), -torch.inf, dtype=hidden.dtype).triu(1)[None, None]
    for layer in encoder.encoder.layers:
        x = layer.layer_norm1(hidden)
        own = layer.self_attn
        heads = own.num_heads

        def split(z: torch.Tensor, heads: int = heads) -> torch.Tensor:
            return z.unflatten(-1, (heads, -1)).transpose(1, 2)

        q, k, v = split(own.q_proj(x)), split(own.k_proj(x)), split(own.v_proj(x))
        weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + mask).softmax(-1)
        hidden = hidden + own.out_proj((weights @ v).transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    last = encoder.final_layer_norm(hidden)[0, -1]
    return last @ model.projection("text").layers[0].weight.T


def test_coop_is_a_softmax_over_classes_behind_the_context() -> None:
    model = small_clip()
    method = adapted("coop", model, length=3, temperature=0.5)
    words = model.text.encoder.get_input_embeddings().weight
    words.data[-3:].normal_(std=0.5)
    texts = torch.stack([text_by_hand(model, words[-3:], name.replace("_", " ")) for name in CLASSES]).detach()
    z = torch.randn(5, 16, dtype=torch.float64)
    target, whole = np.array([0, 2, -1, 1, 1]), torch.tensor([0, 2, -1, 1, 1, -1, 2, 0])
    wanted = 0.0
    for image, number in zip(z, target, strict=True):
        cosines = [float(image @ text / image.norm() / text.norm()) / 0.5 for text in texts]
        if number >= 0:
            wanted -= cosines[number] - np.log(np.exp(cosines).sum())
    inputs: Any = type("Inputs", (), {"data": {"class": target}})
    batch: Any = type("Batch", (), {"targets": {"class": whole}})
    terms = method.local_terms("anchor", z, inputs, batch, model, None)
    assert terms["classes"].item() == pytest.approx(wanted / 6, rel=1e-12)


def test_gopro_moves_words_by_the_image_alike_for_its_views() -> None:
    model = small_clip()
    method = adapted("gopro", model, length=2, temperature=0.5, consistency=0.7)
    parts = method.parts(model).double()
    parts["generator"].layers[-1].weight.data.normal_(std=0.3)
    words = model.text.encoder.get_input_embeddings().weight
    own = {view: torch.randn(4, 16 + 2 * 32, dtype=torch.float64) for view in ("anchor", "image1", "image2")}
    place, target, whole = np.array([3, 1]), np.array([2, 0]), torch.tensor([0, 0, 1, 2])
    inputs: Any = type("Inputs", (), {"data": {"class": target, "place": place}})
    batch: Any = type("Batch", (), {"targets": {"class": whole}, "own": own, "size": 4})
    terms = method.local_terms("anchor", own["anchor"][place][:, :16], inputs, batch, model, parts)

    def unit_texts(features: torch.Tensor) -> torch.Tensor:
        hidden = (features @ parts["generator"].layers[0].weight.T + parts["generator"].layers[0].bias).relu()
        moves = hidden @ parts["generator"].layers[2].weight.T + parts["generator"].layers[2].bias
        context = words[-2:] + moves.reshape(2, 32)
        texts = torch.stack([text_by_hand(model, context, name.replace("_", " ")) for name in CLASSES])
        return texts / texts.norm(dim=1, keepdim=True)

    losses, apart = [], 0.0
    for row, number in zip(place, target, strict=True):
        image = own["anchor"][row][:16] / own["anchor"][row][:16].norm()
        texts = {view: unit_texts(features[row]) for view, features in own.items()}
        losses.append(float(torch.logsumexp(texts["anchor"] @ image / 0.5, 0) - texts["anchor"][number] @ image / 0.5))
        apart += sum(float(((texts["anchor"] - texts[view]) ** 2).mean()) for view in ("image1", "image2"))
    assert float(terms["classes"]) == pytest.approx(sum(losses) / 4, rel=1e-10)
    assert float(terms["consistency"]) == pytest.approx(0.7 * apart / 4, rel=1e-10)
    assert method.local_terms("image1", own["image1"], inputs, batch, model, parts) == {}


def test_only_the_words_are_trained_and_weight_decay_leaves_the_others(tmp_path: Path) -> None:
    recipe = load_recipe("coop", ["train.weight_decay=0.5"], smoke=True)
    model = build(recipe.model, recipe.seed)
    before = {name: tensor.clone() for name, tensor in model.tensors().items()}
    trained = embedkit.load(embedkit.train(recipe, output=tmp_path / "run").output)
    for name, tensor in trained.tensors().items():
        old = before[name]
        assert torch.equal(tensor[: len(old)], old), name
        assert len(tensor) in (len(old), len(old) + 4)
    words = trained.text.encoder.get_input_embeddings().weight
    ids = trained.text.tokenizer("a photo of a", add_special_tokens=False)["input_ids"]
    assert (words[-4:] - words[ids]).abs().min() > 0
    assert trained.default_prompt == "context"
    assert not np.allclose(trained.encode(["circle"]), trained.encode(["circle"], prompt=""))


def test_the_saved_words_of_gopro_have_the_mean_over_images_in_them(tmp_path: Path) -> None:
    given = load_recipe("gopro", smoke=True)
    result = runs.run(tmp_path, given.model_dump(mode="json", exclude_defaults=True))
    weights = runs.checkpoint(tmp_path, 4, "weights")
    trained: Any = embedkit.load(result.output)
    shift = weights["parts.generator.mean"] / (1 - 0.99**4)
    table = weights["model.text.encoder.embeddings.token_embedding.weight"]
    torch.testing.assert_close(trained.text.encoder.get_input_embeddings().weight[-4:], table[-4:] + shift)
    assert shift.abs().max() > 0


def test_a_generator_begins_at_no_move_and_its_mean_is_not_pulled_to_zero() -> None:
    generator = Generator(3, 4, words=2, width=5)
    assert generator(torch.randn(6, 3)).abs().max() == 0
    generator.layers[-1].bias.data += 2.0  # type: ignore[operator]
    for _ in range(3):
        generator.follow(torch.randn(6, 3))
    torch.testing.assert_close(generator.value(), torch.full((2, 5), 2.0))


def test_no_move_is_the_plain_text() -> None:
    model = small_clip()
    first = learn_context(model, "a photo of a", None)
    names = model.text.prepare(["circle", "large square"], "context")
    moved = shifted_texts(model, names, first, torch.zeros(3, 4, 32, dtype=torch.float64))
    torch.testing.assert_close(moved, model(names).expand(3, -1, -1))


@pytest.mark.parametrize("format", ["open_clip", "transformers", "onnx"])
def test_learned_words_leave_as_words_of_the_vocabulary(format: str, tmp_path: Path) -> None:
    pytest.importorskip({"onnx": "onnxscript"}.get(format, format))
    model = build(
        load_recipe("clip-small", {"model.towers.text.tokenizer": "builtin", "model.towers.text.max_length": 77}).model
    )
    model.text.cleaning = "whitespace"
    learn_context(model, "", 3)
    model.eval().save(tmp_path / "saved")
    back = embedkit.load(tmp_path / "saved", device="cpu")
    assert back.default_prompt == "context"
    np.testing.assert_array_equal(back.encode(["a cat"]), model.encode(["a cat"]))
    embedkit.export(model, tmp_path / "m", format, samples=4)  # refuses other vectors
    if format == "onnx":
        return
    there = embedkit.load(tmp_path / "m", device="cpu")
    prompt = model.prompts["context"]
    np.testing.assert_allclose(there.encode(["a cat"], prompt=prompt), model.encode(["a cat"]), atol=1e-5)
    if format == "transformers":
        st = pytest.importorskip("sentence_transformers").SentenceTransformer(str(tmp_path / "m"), device="cpu")
        np.testing.assert_allclose(st.encode(["a cat"]), model.encode(["a cat"]), atol=1e-5)


def test_classes_that_are_numbers_are_told_before_a_model_is_read() -> None:
    recipe = load_recipe("coop", ["method.target=label", "data.train=[{path: 'builtin:shapes-train', limit: 64}]"],
                         smoke=True)  # fmt: skip
    with pytest.raises(DataError, match=r"the classes of column 'label' are numbers.* set method.target to the column"):
        open_rows(recipe, build_method(recipe))


def test_models_and_settings_that_do_not_fit_are_told() -> None:
    with pytest.raises(RecipeError, match=r"method.context: has no words"):
        methods["coop"](context=" ")
    model = small_clip()
    with pytest.raises(ModelError, match=r"method.length: 30 words of 24 tokens leave no room; give fewer"):
        adapted("coop", model, length=30)
    adapted("coop", model)
    with pytest.raises(ModelError, match=r"the model has a prompt 'context' already"):
        adapted("coop", model)
    towers: Any = {"dim": 8, "text": {"kind": "static", "dim": 8, "tokenizer": "builtin"},
                   "image": {"size": "vit-nano-32"}}  # fmt: skip
    static = build(ModelConfig(kind="dual", towers=towers), 0)
    with pytest.raises(ModelError, match=r"a static text tower takes no learned words"):
        adapted("coop", static)
    with pytest.raises(ModelError, match=r"moved words need a text tower without a norm on its words"):
        adapted("gopro", build(load_recipe("clip", smoke=True).model, 0))
    two = methods["coop"]()
    two.learn_targets({"class:label_name": TargetFacts(("big square", "big_square"))})
    with pytest.raises(DataError, match=r"'big square' and 'big_square' have the same tokens"):
        two.adapt(small_clip())


def test_rows_without_a_class_are_left_out() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64)
    found = class_loss(logits, torch.tensor([1, -1, 2]), torch.tensor([1, -1, 2, 0]))
    wanted = -(logits.log_softmax(1)[0, 1] + logits.log_softmax(1)[2, 2]) / 3
    assert torch.allclose(found, wanted)
