"""The modules of sentence-transformers: their additions to the plan of a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedkit.errors import ModelError, UnsafeFileError
from embedkit.formats.folder import FolderPlan, Settings
from embedkit.formats.peft.reader import ADAPTER, place_on_base

# sentence-transformers' name -> ours
POOLING_NAMES = {
    "cls": "cls", "max": "max", "mean": "mean", "mean_sqrt_len_tokens": "mean-sqrt-len",
    "weightedmean": "weighted-mean", "lasttoken": "last-token",
}  # fmt: skip
# the flags of versions before 5.4, in the order in which several are concatenated
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
OF_VECTORS = "encode with sentence-transformers and give its vectors as a .npy file"
_OF_PAIRS = "a cross-encoder is given as --scorer to `embedkit score` and `embedkit mine`"
_OF_SPARSE = "its vectors are sparse"
_DENSE_ONLY = "give a model of dense vectors"
REFUSED = {
    "BoW": ("it counts words", OF_VECTORS), "CNN": ("a convolution over tokens", OF_VECTORS),
    "LSTM": ("a recurrent network over tokens", OF_VECTORS),
    "WordEmbeddings": ("word vectors with a tokenizer of their own", OF_VECTORS),
    "WordWeights": ("token vectors are weighted by word", OF_VECTORS),
    "WeightedLayerPooling": ("token vectors are a weighted mean over layers", OF_VECTORS),
    "SpladePooling": (_OF_SPARSE, _DENSE_ONLY), "MLMTransformer": (_OF_SPARSE, _DENSE_ONLY),
    "SparseStaticEmbedding": (_OF_SPARSE, _DENSE_ONLY),
    "MultiVectorMask": ("it gives a vector for each token", "give a model of one vector a text"),
    "LogitScore": ("it scores pairs", _OF_PAIRS),
}  # fmt: skip
"""Classes of modules that are not read -> why, and what to do."""
_TASKS = {"sequence-classification": _OF_PAIRS, "fill-mask": _DENSE_ONLY}


def add_module(plan: FolderPlan, name: str, folder: Path, last: bool) -> None:
    """Add the settings of the module `name` in `folder` to a plan; `last` for the last module of the model.

    Raises
    ------
    ModelError
        A setting that embedkit does not have, with its file.

    Examples
    --------
    >>> Path("1_Pooling").mkdir()
    >>> _ = Path("1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    >>> plan = FolderPlan(Path(), Path(), "text")
    >>> add_module(plan, "Pooling", Path("1_Pooling"), last=True)
    >>> plan.spec
    {'pooling': 'cls'}
    """
    if name == "Normalize":
        _normalize(plan, folder, last)
    else:
        _READERS[name](plan, folder)


def _transformer(plan: FolderPlan, folder: Path) -> None:
    plan.weights = folder
    if (folder / ADAPTER).is_file():
        place_on_base(plan, folder)
    for file in sorted(folder.glob("sentence_*_config.json")):
        settings = plan.settings(file)
        settings.pass_over(("module_output_name", "unpad_inputs"))
        if settings.get("transformer_task", "feature-extraction") != "feature-extraction":
            task = str(settings["transformer_task"])
            raise ModelError(f"its task is {task}, not feature-extraction", where=str(file),
                             remedy=_TASKS.get(task, OF_VECTORS))  # fmt: skip
        text = (settings.get("modality_config") or {}).get("text", {})
        method, output = text.get("method", "forward"), text.get("method_output_name", "last_hidden_state")
        if (method, output) != ("forward", "last_hidden_state"):
            raise ModelError(f"a text goes through {method!r} of the model, which is not supported", where=str(file),
                             remedy=OF_VECTORS)  # fmt: skip
        plan.lower_case = bool(settings.get("do_lower_case", False))
        length = settings.get("max_seq_length") or _model_arguments(settings)
        if length:
            plan.spec["max_length"] = int(length)


_ARGUMENTS = (
    ("model_args", "model_kwargs"), ("tokenizer_args", "processor_kwargs"), ("config_args", "config_kwargs"),
)  # fmt: skip


def _model_arguments(settings: Settings) -> Any:
    """The tokenizer's length among the arguments that a folder has for transformers; an argument that would change
    the vectors is refused, one that only affects how they are computed is ignored."""
    length = None
    for old, new in _ARGUMENTS:
        arguments = {**(settings.get(old) or {}), **(settings.get(new) or {})}
        length = arguments.pop("model_max_length", length)
        for key in ("trust_remote_code", "attn_implementation", "torch_dtype", "dtype", "add_pooling_layer", "use_fast",
                    "padding_side", "unpad_inputs", "use_memory_efficient_attention", "use_cache"):  # fmt: skip
            arguments.pop(key, None)
        if arguments:
            raise ModelError(
                f"{new} has {', '.join(sorted(arguments))}, which embedkit does not pass on", where=str(settings.path),
                remedy="write them into config.json or tokenizer_config.json, and take them out here",
            )  # fmt: skip
    return length


def _static(plan: FolderPlan, folder: Path) -> None:
    plan.kind, plan.weights = "static", folder


def _needed_settings(plan: FolderPlan, path: Path) -> Settings:
    """The settings of a module that has no defaults for them."""
    if not path.is_file():
        raise ModelError("file is missing", where=str(path), remedy="the model folder is incomplete")
    return plan.settings(path)


def _pooling(plan: FolderPlan, folder: Path) -> None:
    path = folder / "config.json"
    settings = _needed_settings(plan, path)
    settings.pass_over((*POOLING_FLAGS, "word_embedding_dimension", "embedding_dimension"))
    modes = (
        settings.get("pooling_mode") or [name for flag, name in POOLING_FLAGS.items() if settings.get(flag)] or ["mean"]
    )
    modes = [modes] if isinstance(modes, str) else list(modes)
    unknown = [mode for mode in modes if mode not in POOLING_NAMES]
    if unknown:
        raise ModelError(
            f"pooling {'+'.join(unknown)} is not supported", where=str(path),
            remedy=f"supported: {', '.join(POOLING_NAMES)}",
        )  # fmt: skip
    plan.spec["pooling"] = "+".join(POOLING_NAMES[mode] for mode in modes)
    if not settings.get("include_prompt", True):
        plan.spec["pool_prompt"] = False


def _needs_text(plan: FolderPlan, name: str, path: Path) -> None:
    if plan.kind != "text":
        raise ModelError(f"a {name} module behind a static model is not supported", where=str(path),
                         remedy=OF_VECTORS)  # fmt: skip


def _on_sentences(settings: Settings) -> bool:
    return {settings.get("module_input_name"), settings.get("module_output_name")} <= {None, "sentence_embedding"}


def _dense(plan: FolderPlan, folder: Path) -> None:
    path = folder / "config.json"
    settings = _needed_settings(plan, path)
    _needs_text(plan, "Dense", path)
    on_sentences = _on_sentences(settings)
    if settings.get("use_residual") or not on_sentences:
        raise ModelError("a Dense module with a residual or on token vectors is not supported", where=str(path),
                         remedy=OF_VECTORS)  # fmt: skip
    function = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if not function.startswith("torch."):
        raise UnsafeFileError(f"names the function {function!r}, none of torch's", where=str(path), remedy="change it")
    layer = {
        "inputs": settings["in_features"], "outputs": settings["out_features"], "bias": settings.get("bias", True),
        "activation": function.rpartition(".")[2].lower(), "train_only": False,
    }  # fmt: skip
    plan.dense.append((folder, layer))


def _sparse_code(plan: FolderPlan, folder: Path) -> None:
    path = folder / "config.json"
    settings = _needed_settings(plan, path)
    _needs_text(plan, "SparseAutoEncoder", path)
    settings.pass_over(("k_aux", "dead_threshold"))  # of its training
    if settings.get("normalize"):
        raise ModelError("a SparseAutoEncoder that normalises its input is not supported", where=str(path),
                         remedy=OF_VECTORS)  # fmt: skip
    sizes = {"inputs": settings["input_dim"], "outputs": settings.get("hidden_dim", 512), "k": settings.get("k", 8)}
    plan.dense.append((folder, {"kind": "sparse-code", **sizes}))


def _layer_norm(plan: FolderPlan, folder: Path) -> None:
    path = folder / "config.json"
    _needs_text(plan, "LayerNorm", path)
    plan.dense.append((folder, {"kind": "layer-norm", "dim": _needed_settings(plan, path)["dimension"]}))


def _dropout(plan: FolderPlan, folder: Path) -> None:
    rate = plan.settings(folder / "config.json").get("dropout")
    plan.notes.append(f"the Dropout module (rate {rate}) acts in training only and is left out; see model.dropout")


def _normalize(plan: FolderPlan, folder: Path, last: bool) -> None:
    path = folder / "config.json"
    if not _on_sentences(plan.settings(path)):
        raise ModelError("a Normalize module on token vectors is not supported", where=str(path), remedy=OF_VECTORS)
    if last:
        plan.spec["normalize"] = True
    else:
        _needs_text(plan, "module behind Normalize", path)
        plan.dense.append((None, {"kind": "unit-length"}))


_READERS: dict[str, Callable[[FolderPlan, Path], None]] = {
    "Transformer": _transformer,
    "StaticEmbedding": _static,
    "Pooling": _pooling,
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "SparseAutoEncoder": _sparse_code,
    "Dropout": _dropout,
}
MODULES = frozenset({*_READERS, "Normalize", "CLIPModel", "Router", "Asym", "SentenceTransformer"})
"""Classes of modules that are read."""
