"""The parts of open_clip's folders: names of weights, configurations of towers, tokenizers that clean by themselves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError
from embedkit.formats.open_clip import keys, text_config, towers
from embedkit.formats.open_clip.writer import preprocess_cfg
from embedkit.models.inputs.preprocess import Preprocess
from tests.helpers import dual, tiny

open_clip = pytest.importorskip("open_clip")


# --- names of weights ------------------------------------------------------------------------------------------------


def open_clip_model(seed: int = 0) -> Any:
    """A small CLIP as open_clip makes it."""
    from open_clip.model import CLIP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(
            embed_dim=16, vision_cfg=dict(dual.VIT),
            text_cfg={"context_length": 12, "vocab_size": 50, "width": 32, "heads": 4, "layers": 2},
        ).eval()  # fmt: skip
        dual.spread(model)
    return model


def hf_vision() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    shape = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return CLIPVisionModel(CLIPVisionConfig(**shape, image_size=32, patch_size=8, hidden_act="gelu")).eval()


def hf_text() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    shape = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPTextConfig(
        **shape, vocab_size=50, max_position_embeddings=12, hidden_act="gelu", bos_token_id=0, eos_token_id=49
    )
    return CLIPTextModel(config).eval()


def under(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def loaded(model: Any, state: dict[str, Any]) -> None:
    """Load renamed weights, which must be all parameters and no more."""
    assert state.keys() == {name for name, _ in model.named_parameters()}
    model.load_state_dict(state, strict=False)  # buffers of places stay


def test_an_image_tower_under_transformers_names_gives_open_clips_vectors() -> None:
    theirs, model = open_clip_model(), hf_vision()
    state = {name: tensor for name, tensor in under(theirs.state_dict(), "visual.").items() if name != "proj"}
    loaded(model, keys.vision_to_hf(state))
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs.visual(pixels)
        found = model(pixel_values=pixels).pooler_output @ theirs.visual.proj
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_text_tower_under_transformers_names_gives_open_clips_vectors() -> None:
    theirs, model = open_clip_model(), hf_text()
    outside = ("visual.", "text_projection", "logit_scale")
    loaded(model, keys.text_to_hf({n: t for n, t in theirs.state_dict().items() if not n.startswith(outside)}))
    ids = torch.tensor([[1, 7, 9, 49, 0, 0, 0, 0, 0, 0, 0, 0], [3, 49, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    with torch.inference_mode():
        expected = theirs.encode_text(ids)
        found = model(input_ids=ids).pooler_output @ theirs.text_projection
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["vision", "text"])
def test_there_and_back_every_tensor_is_the_same(kind: str) -> None:
    state = open_clip_model().state_dict()
    if kind == "vision":
        own, there, back = under(state, "visual."), keys.vision_to_hf, keys.vision_from_hf
        own.pop("proj")
    else:
        own, there, back = dict(state), keys.text_to_hf, keys.text_from_hf
        own = {n: t for n, t in own.items() if not n.startswith(("visual.", "text_projection", "logit_", "attn_mask"))}
    again = back(there(own))
    assert again.keys() == own.keys()
    for name, tensor in own.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)


def test_the_fused_matrix_is_query_key_value_in_this_order() -> None:
    fused = torch.arange(12.0)[:, None].expand(12, 4)
    cut = keys.vision_to_hf({"transformer.resblocks.3.attn.in_proj_weight": fused})
    place = "encoder.layers.3.self_attn."
    assert [cut[f"{place}{kind}_proj.weight"][:, 0].tolist() for kind in "qkv"] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11],
    ]  # fmt: skip


def test_names_that_are_of_neither_tower_are_left_out() -> None:
    assert keys.vision_to_hf({"logit_scale": torch.ones(1), "something.else": torch.ones(1)}) == {}
    assert keys.text_from_hf({"head.weight": torch.ones(1)}) == {}


# --- configurations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "clip_text_model"),
        ({"pool_type": "eos"}, "clip_text_model"),
        ({"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}, "siglip_text_model"),
    ],
)
def test_the_two_text_models_that_transformers_has(changes: dict[str, Any], kind: str) -> None:
    cfg = {"context_length": 20, "vocab_size": 99, "width": 32, "heads": 2, "layers": 3, "mlp_ratio": 2.5, **changes}
    assert text_config.has_text_model(cfg)
    found = text_config.text_config(cfg, 16, quick_gelu=False)
    assert (found["model_type"], found["max_position_embeddings"], found["vocab_size"]) == (kind, 20, 99)
    assert (found["hidden_size"], found["intermediate_size"], found["num_hidden_layers"]) == (32, 80, 3)
    assert found["projection_size" if "siglip" in kind else "projection_dim"] == 16


@pytest.mark.parametrize(
    "changes",
    [{"no_causal_mask": True}, {"proj_bias": True}, {"pool_type": "last"}, {"pool_type": "first"}, {"embed_cls": True},
     {"ls_init_value": 1e-4}, {"proj_type": "none"}, {"qk_norm": True}, {"block_type": "custom"}, {"scale_fc": True}],
)  # fmt: skip
def test_what_no_text_model_of_transformers_has(changes: dict[str, Any]) -> None:
    assert not text_config.has_text_model(changes)
    with pytest.raises(ModelError, match=r"text_cfg: .*(not supported|neither CLIP's nor SigLIP's)"):
        text_config.text_config(changes, 16, quick_gelu=False)


def test_the_defaults_are_open_clips() -> None:
    theirs = open_clip.model.CLIPTextCfg()
    found = text_config.text_config({}, 512, quick_gelu=True)
    assert found["hidden_size"] == theirs.width
    assert found["num_attention_heads"] == theirs.heads
    assert found["num_hidden_layers"] == theirs.layers
    assert found["vocab_size"] == theirs.vocab_size
    assert found["max_position_embeddings"] == theirs.context_length
    assert found["intermediate_size"] == int(theirs.width * theirs.mlp_ratio)


@pytest.mark.parametrize(
    ("cfg", "quick", "name"),
    [({}, True, "quick_gelu"), ({}, False, "gelu"), ({"act_kwargs": {}}, True, "quick_gelu"),
     ({"act_kwargs": None}, False, "gelu"), ({"act_kwargs": {"approximate": "tanh"}}, False, "gelu_pytorch_tanh")],
)  # fmt: skip
def test_activations_are_the_same_functions_as_open_clips(cfg: dict[str, Any], quick: bool, name: str) -> None:
    from open_clip.transformer import QuickGELU
    from transformers.activations import ACT2FN

    assert text_config.activation(cfg, quick) == name
    x = torch.linspace(-4, 4, 41)
    theirs = QuickGELU() if quick else torch.nn.GELU(**(cfg.get("act_kwargs") or {}))
    torch.testing.assert_close(ACT2FN[name](x), theirs(x))


@pytest.mark.parametrize(("kwargs", "quick"), [({"approximate": "tanh"}, True), ({"approximate": "none"}, False)])
def test_activations_that_are_not_known(kwargs: dict[str, Any], quick: bool) -> None:
    with pytest.raises(ModelError, match="activation settings"):
        text_config.activation({"act_kwargs": kwargs}, quick)


def test_a_text_tower_is_written_as_it_was_read() -> None:
    model = dual.text_tower("clip", cleaning="whitespace")
    cfg, quick = text_config.open_clip_text_cfg(model)
    assert not quick
    assert cfg["hf_tokenizer_name"] == "tokenizer"
    again = text_config.text_config({k: v for k, v in cfg.items() if not k.startswith("hf_")}, 16, quick)
    kept = model.encoder.config
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"):
        assert again[key] == getattr(kept, key), key
    own = dual.text_tower("clip", clip=True, cleaning="lower")
    assert "hf_tokenizer_name" not in text_config.open_clip_text_cfg(own)[0]  # open_clip has that vocabulary itself


@pytest.mark.parametrize("act", ["gelu", "quick_gelu", "gelu_pytorch_tanh"])
def test_a_written_activation_is_the_one_that_is_read(act: str) -> None:
    cfg, quick = text_config.open_clip_text_cfg(dual.text_tower("clip", cleaning="whitespace", act=act))
    assert quick == (act == "quick_gelu")
    assert text_config.activation(cfg, quick) == act


def test_the_end_token_is_written_where_it_is_not_the_last_of_the_vocabulary() -> None:
    """open_clip reads a text at its largest id unless it is told another one."""
    own = text_config.open_clip_text_cfg(dual.text_tower("clip", clip=True, cleaning="lower"))[0]
    assert not {"pool_type", "eos_id"} & own.keys()
    tiny_words = text_config.open_clip_text_cfg(dual.text_tower("clip", cleaning="whitespace"))[0]
    assert (tiny_words["pool_type"], tiny_words["eos_id"]) == ("eos", 3)


def test_layer_norms_with_another_epsilon_are_written() -> None:
    text = dual.text_tower("clip", cleaning="whitespace")
    assert "norm_kwargs" not in text_config.open_clip_text_cfg(text)[0]
    text.encoder.config.layer_norm_eps = 1e-6
    cfg = text_config.open_clip_text_cfg(text)[0]
    assert cfg["norm_kwargs"] == {"eps": 1e-6}
    assert text_config.text_config({"norm_kwargs": cfg["norm_kwargs"]}, 16, False)["layer_norm_eps"] == 1e-6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: setattr(text.encoder.config, "hidden_act", "relu"), "it has no activation 'relu'"),
        (lambda text: setattr(text.encoder.config, "max_position_embeddings", 99), "the position table has 99 places"),
        (lambda text: setattr(text, "cleaning", "none"), "it cleans every caption and this model none"),
    ],
)
def test_a_text_tower_that_open_clip_would_read_otherwise(change: Any, reason: str) -> None:
    text = dual.text_tower("clip", cleaning="whitespace")
    change(text)
    with pytest.raises(ModelError, match=f"open_clip cannot express this model: {reason}"):
        text_config.open_clip_text_cfg(text)


def test_clips_vocabulary_is_known_by_its_pieces_not_by_its_size() -> None:
    assert text_config.has_clip_vocabulary(dual.bpe())
    assert not text_config.has_clip_vocabulary(tiny.tokenizer())
    pieces = dict(dual.bpe().get_vocab())
    first, second = sorted(pieces, key=pieces.__getitem__)[1000:1002]
    pieces[first], pieces[second] = pieces[second], pieces[first]
    assert not text_config.has_clip_vocabulary(SimpleNamespace(get_vocab=lambda: pieces))


@pytest.mark.parametrize("cleaning", ["none", "whitespace", "lower", "canonicalize"])
def test_a_tokenizer_that_cleans_by_itself_gives_the_models_tokens(cleaning: str) -> None:
    text = dual.text_tower("clip", clip=True, cleaning=cleaning)
    words = text_config.with_cleaning(text)
    captions = [*dual.CAPTIONS, "Tom &amp;amp; Jerry", "“Wow”…", "a  b\n c", "it’s 3&#39;s", "two_words!", "x\x07y"]
    theirs = words(captions, truncation=True, max_length=text.max_length)["input_ids"]
    assert theirs == text.prepare(captions).rows()
    assert words.model_max_length == text.max_length
    assert words.backend_tokenizer.truncation is not None  # of this call; the model's own has none
    assert text.tokenizer.backend_tokenizer.to_str() != words.backend_tokenizer.to_str()


# --- small rules of reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "tag"),
    [("ViT-B-32", "ViT-B-32", ""), ("ViT-B/32", "ViT-B-32", ""), ("ViT-B/32/openai", "ViT-B-32", "openai"),
     ("RN50/openai", "RN50", "openai"), ("nothing/like/this", "nothing", "like/this"), ("", "", "")],
)  # fmt: skip
def test_names_with_a_slash(name: str, kind: str, tag: str) -> None:
    assert towers.named(name) == (kind, tag)


@pytest.mark.parametrize(
    ("given", "value"),
    [({"mean": [0.1, 0.2, 0.3]}, (0.1, 0.2, 0.3)), ({"mean": 0.5}, (0.5, 0.5, 0.5)), ({"mean": None}, "default"),
     ({}, "default")],
)  # fmt: skip
def test_a_mean_may_be_one_number(given: dict[str, Any], value: Any) -> None:
    assert towers._three(given, "mean", Preprocess.mean) == (Preprocess.mean if value == "default" else value)


@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_open_clips(resize: Any, interpolation: str) -> None:
    """The settings that are written make open_clip's own transform give the model's pixels."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    known = Preprocess(size=(32, 32), resize=resize, interpolation=interpolation, alpha="drop", fill=7)
    cfg, notes = preprocess_cfg(known)
    assert notes == []
    transform = image_transform_v2(PreprocessCfg(**cfg), is_train=False)
    mean, std = (np.array(v)[:, None, None] for v in (known.mean, known.std))
    for picture in dual.images(8):
        ours = (known(picture) / 255 - mean) / std
        np.testing.assert_allclose(ours, transform(picture).numpy(), atol=1e-5)


def test_what_differs_for_some_images_is_noted() -> None:
    notes = preprocess_cfg(Preprocess(crop="truncate", alpha="white"))[1]
    assert [note.split()[2:5] for note in notes] == [["an", "odd", "crop"], ["an", "alpha", "channel"]]


@pytest.mark.parametrize("changes", [{"resize": "none"}, {"interpolation": "box"}, {"edge": 256}])
def test_preprocessing_that_open_clip_has_not(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="open_clip cannot express this model: it cannot resize"):
        preprocess_cfg(Preprocess(**changes))


def test_a_text_model_of_the_hub_is_not_fetched_because_a_file_names_it(tmp_path: Path) -> None:
    cfg = {"hf_model_name": "nobody/no-such-model"}
    with pytest.raises(ModelError, match="not in the hub's cache") as caught:
        towers._text(cfg, 16, False, {}, tmp_path)
    assert caught.value.remedy == "read what it is, then fetch it once: hf download nobody/no-such-model"
    with pytest.raises(ModelError, match="open_clip's max_pooler is not supported"):
        towers._text({**cfg, "hf_pooler_type": "max_pooler"}, 16, False, {}, tmp_path)


@pytest.mark.parametrize("name", ["nllb-clip-base", "roberta-ViT-B-32"])
def test_a_text_tower_read_at_its_first_token_is_saved_and_trained(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """open_clip's "cls_pooler": NLLB's encoder has no layer there, RoBERTa's tanh layer is part of the tower."""
    import embedkit
    from tests.helpers import open_clip_shapes

    whole = open_clip_shapes.shrunk

    def at_first(name: str, folder: Path, own_trunk: bool = False) -> dict[str, Any]:
        config = whole(name, folder, own_trunk)
        config["text_cfg"]["hf_pooler_type"] = "cls_pooler"
        return config

    monkeypatch.setattr(open_clip_shapes, "shrunk", at_first)
    model = open_clip_shapes.write(name, tmp_path / "m")
    texts, _ = open_clip_shapes.vectors(model, tmp_path / "m")
    ours: Any = embedkit.load(tmp_path / "m", device="cpu")
    assert len(ours.text.layers) == (name == "roberta-ViT-B-32")
    np.testing.assert_allclose(ours.encode(open_clip_shapes.TEXTS), texts, atol=1e-5)
    ours.save(tmp_path / "again")
    again: Any = embedkit.load(tmp_path / "again", device="cpu")
    np.testing.assert_array_equal(again.encode(open_clip_shapes.TEXTS), ours.encode(open_clip_shapes.TEXTS))
    again.train()(again.prepare(["a dog", "two red cats"])).sum().backward()
    assert all(p.grad is not None for p in again.text.encoder.parameters())
