"""Tiny random models of every architecture family, built without network: 2 layers, 32 wide, a small vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (  # noqa: SIM905
    "a the man woman dog cat is are playing running on in with this sentence means of guitar street green red big "
    "small house two three people child children ball water not some bird sings today and or who what where how "
    "to from by park train plane he she it they we you car road sits stands eats reads book long very"
).split()
SENTENCES = [
    "a man is playing guitar",
    "the dog",
    "two children are running in the green park with a big red ball and a small dog",
    "",
    "a woman reads a book on the train",
    "they eat",
    "the dog",
    "who sings today?",
]

_BERT_LIKE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 80,
}  # fmt: skip
# transformers configuration of each family; dropout rates are those of the architecture unless set by the caller
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _BERT_LIKE,
    "roberta": {**_BERT_LIKE, "type_vocab_size": 1},
    "xlm-roberta": {**_BERT_LIKE, "type_vocab_size": 1},
    "camembert": {**_BERT_LIKE, "type_vocab_size": 1},
    "electra": {**_BERT_LIKE, "embedding_size": 16},
    "albert": {**_BERT_LIKE, "embedding_size": 16, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    "ernie": _BERT_LIKE,
    "roberta-prelayernorm": {**_BERT_LIKE, "type_vocab_size": 1},
    "data2vec-text": {**_BERT_LIKE, "type_vocab_size": 1},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 80},
    "modernbert": {
        **_BERT_LIKE, "num_hidden_layers": 4, "global_attn_every_n_layers": 3, "local_attention": 8,
        "attention_dropout": 0.1, "mlp_dropout": 0.1, "embedding_dropout": 0.1,
    },
    "t5": {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 8, "relative_attention_num_buckets": 8},
    "mt5": {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 8, "relative_attention_num_buckets": 8},
    "mpnet": _BERT_LIKE,
    "deberta-v2": {**_BERT_LIKE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
}  # fmt: skip
FAMILIES = sorted(CONFIGS)


def tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """A lower-casing word-level tokenizer with BERT's special tokens; letters stand in for unknown words."""
    vocabulary = [*SPECIALS, *dict.fromkeys(WORDS), *".,:?!\"'-", *"0123456789"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=max_length,
    )  # fmt: skip


def config(family: str, dropout: float | None = None, **settings: Any) -> Any:
    """The transformers configuration of a family over the tiny vocabulary."""
    from transformers import AutoConfig

    from embedkit.factory.text import DROPOUT_KEYS

    words = tokenizer()
    known = {"vocab_size": len(words), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2,
             "sep_token_id": 3}  # fmt: skip
    shape = AutoConfig.for_model(family, **{**known, **CONFIGS[family], **settings})
    if dropout is not None:
        for key in DROPOUT_KEYS:
            if isinstance(getattr(shape, key, None), float | int):
                setattr(shape, key, dropout)
    return shape


def text_encoder(family: str = "bert", *, seed: int = 0, dropout: float | None = None, **settings: Any) -> Any:
    """A random `TextEncoder` in evaluation mode; `settings` go to its constructor."""
    from embedkit.formats.transformers.encoder import new_encoder
    from embedkit.models.modules.text import TextEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = new_encoder(config(family, dropout))
        spread(encoder)
    return TextEncoder(encoder, tokenizer(), **settings).eval()


def spread(encoder: torch.nn.Module) -> None:
    """Draw larger weights than the architecture's own, so that attention and positions matter in the vectors."""
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)


def tokenizer_folder(path: Path) -> Path:
    """The tiny tokenizer saved as a folder (for recipes: ``model.tokenizer``)."""
    tokenizer().save_pretrained(path)
    return path


def model_folder(path: Path, family: str = "bert", **settings: Any) -> Path:
    """A saved tiny text encoder."""
    text_encoder(family, **settings).save(path)
    return path
