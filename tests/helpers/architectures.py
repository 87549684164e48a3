"""Tiny shapes of every text architecture that the matrix of folders is tested over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.helpers import tiny

_BERT = tiny.CONFIGS["bert"]
_DECODER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 80, "head_dim": 8,
}  # fmt: skip
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 80}
# beside `tiny.CONFIGS`
MORE: dict[str, dict[str, Any]] = {
    "deberta": {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    "mobilebert": {**_BERT, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "convbert": {**_BERT, "embedding_size": 16, "conv_kernel_size": 5, "head_ratio": 2},
    "fnet": _BERT,
    "squeezebert": {**_BERT, "embedding_size": 32, "q_groups": 2, "k_groups": 2, "v_groups": 2},
    "roformer": {**_BERT, "embedding_size": 32},
    "longformer": {**_BERT, "attention_window": [8, 8]},
    "megatron-bert": _BERT,
    "rembert": {**_BERT, "input_embedding_size": 16, "output_embedding_size": 16},
    "layoutlm": _BERT,
    "xmod": {**_BERT, "languages": ["en_XX"], "default_language": "en_XX"},
    "xlm-roberta-xl": {**_BERT, "type_vocab_size": 1},
    "umt5": tiny.CONFIGS["t5"],
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 80},
    "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 80},
    "eurobert": _DECODER,
}  # fmt: skip
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gpt_neox": {**_BERT, "rotary_pct": 0.25},
    "opt": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64,
            "max_position_embeddings": 80, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "llama": _DECODER,
    "mistral": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "gemma": _DECODER,
    "gemma2": {**_DECODER, "query_pre_attn_scalar": 8, "sliding_window": 16},
    "gemma3_text": {**_DECODER, "query_pre_attn_scalar": 8, "sliding_window": 16},
    "phi3": {**_DECODER, "pad_token_id": 0},
    "olmo": _DECODER,
    "stablelm": _DECODER,
    "starcoder2": _DECODER,
}  # fmt: skip


def encoder_folder(family: str, path: Path) -> Path:
    """A bare transformers folder of a family with random weights: a causal language model for a decoder, the plain
    model for an encoder."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from embedkit.formats.transformers.encoder import new_encoder

    words = tiny.tokenizer()
    ids = {"vocab_size": len(words), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family in DECODERS:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**ids, **DECODERS[family]}))
        elif family in MORE:
            config = AutoConfig.for_model(family, **{**ids, **MORE[family]})
            model = new_encoder(config) if family == "umt5" else AutoModel.from_config(config)
        else:
            model = new_encoder(tiny.config(family))
        tiny.spread(model)
    model.eval().save_pretrained(path)
    words.save_pretrained(path)
    return path


FAMILIES = sorted({*tiny.CONFIGS, *MORE, *DECODERS})
