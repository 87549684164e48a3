"""Export of the encoder alone, as a transformers folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError
from embedkit.formats.weights import write_weights

if TYPE_CHECKING:
    from embedkit.models.base import Model

# Architectures whose own pooler is Linear + tanh on the first token.
_TANH_POOLER = frozenset({"bert", "camembert", "ernie", "roberta", "roberta-prelayernorm", "xlm-roberta"})


def write(model: Model, folder: Path) -> dict[str, Any]:
    """Pooling, normalisation, length and prompts that go with the new folder of an encoder and its tokenizer.

    A head that equals the architecture's pooler is written as that pooler.

    Raises
    ------
    ModelError
        For a static model, for dense layers that are no pooler, for a soft prompt or a template bias.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("quickstart").model)
    >>> Path("encoder").mkdir()
    >>> write(model, Path("encoder"))["use"]
    {'pooling': 'mean', 'normalize': True, 'max_length': 32}
    """
    from embedkit.models.modules.text import TextEncoder

    if not isinstance(model, TextEncoder):
        raise ModelError(f"transformers has no {model.kind} model", remedy="export to sentence-transformers")
    if model.beyond_modules:
        what = "; ".join(model.beyond_modules)
        raise ModelError(f"a transformers folder cannot express this model: {what}", remedy="save it with embedkit")
    layers: list[Any] = [layer for layer in model.layers if not layer.train_only]
    extra: dict[str, Any] = {}
    if layers:
        if pooler_of(model) is None:
            raise ModelError(
                "a transformers folder cannot hold this head", remedy="export to sentence-transformers or onnx"
            )
        extra = {f"pooler.dense.{key}": value for key, value in layers[0].linear.state_dict().items()}
    write_weights(model, folder, extra)
    use = {"pooling": model.pooling, "normalize": model.normalize, "max_length": model.max_length}
    return {"use": use, "prompts": model.prompts, "default_prompt": model.default_prompt}


def pooler_of(model: Any) -> Any:
    """The one dense layer of a text model that equals its architecture's own pooler, or None.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("quickstart", {"model.pooling": "cls", "model.head": {"kind": "tanh"}}).model)
    >>> pooler_of(model).activation
    'tanh'
    """
    from embedkit.models.heads.layers import Dense

    layers = [layer for layer in model.layers if not layer.train_only]
    if len(layers) != 1 or not isinstance(layers[0], Dense):
        return None
    first = layers[0]
    same = (
        model.pooling == "cls"
        and model.encoder.config.model_type in _TANH_POOLER
        and first.activation == "tanh"
        and first.linear.weight.shape == (model.hidden_size, model.hidden_size)
        and first.linear.bias is not None
    )
    return first if same else None
