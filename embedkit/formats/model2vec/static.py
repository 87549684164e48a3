"""Static encoders of embedkit, sentence-transformers and model2vec: a table of vectors and its tokenizer."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from embedkit.errors import ModelError
from embedkit.formats.folder import FolderPlan
from embedkit.formats.tensors import read_tensors
from embedkit.models.modules.static import StaticEncoder


def read_static(plan: FolderPlan, allow_pickle: bool = False) -> StaticEncoder:
    """The static encoder of an inspected folder.

    Raises
    ------
    ModelError
        When the table is missing or does not fit the tokenizer.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.formats.detect import inspect
    >>> read_static(inspect(StaticEncoder(tokenizer(), dim=4).save("words"))).dim
    4
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    path = plan.weights / "tokenizer.json"
    if not path.is_file():
        raise ModelError("file is missing", where=str(path), remedy="the model folder is incomplete")
    core = Tokenizer.from_file(str(path))
    spec = {key: value for key, value in plan.spec.items() if key != "pooling"}
    if core.truncation is not None:
        spec.setdefault("max_length", core.truncation["max_length"])
    weight = _table(read_tensors(plan.weights, allow_pickle), plan.weights)
    if len(weight) < core.get_vocab_size() + spec.get("buckets", 0):
        raise ModelError(
            f"{len(weight)} vectors for {core.get_vocab_size()} word pieces", where=str(plan.weights),
            remedy="tokenizer.json and the weights do not belong together",
        )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    return StaticEncoder(tokenizer, weight.shape[1], weight=weight, **spec)


def _table(tensors: dict[str, Tensor], folder: Path) -> Tensor:
    """The vectors of a file of ours or of sentence-transformers, or of model2vec (with mapping and weights)."""
    if "embedding.weight" in tensors:
        return tensors["embedding.weight"].float()
    if "embeddings" not in tensors:
        raise ModelError("holds no table of vectors", where=str(folder / "model.safetensors"))
    table = tensors["embeddings"].float()
    if "mapping" in tensors:
        table = table[tensors["mapping"].long()]
    return table * tensors["weights"].float()[:, None] if "weights" in tensors else table
