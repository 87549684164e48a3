"""What a model folder holds, read without loading a model: quick checks with clear refusals.

Nothing here imports torch or transformers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedkit.errors import ModelError, UnsafeFileError

OWN_FILE = "embedkit.json"
OWN_FORMAT = 1
OPEN_CLIP_FILE = "open_clip_config.json"
DUAL_TYPES = ("clip", "siglip", "vision-text-dual-encoder")
TRAIN_ONLY_FILE = "embedkit_train_only.safetensors"
SOFT_PROMPT_FILE = "embedkit_soft_prompt.safetensors"

_log = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_MODULES = ("Transformer", "Pooling", "Dense", "Normalize", "StaticEmbedding")
_SEQUENCE = re.compile(r"(Transformer Pooling( Dense)*|StaticEmbedding)( Normalize)?")
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# sentence-transformers' name -> ours
POOLING_NAMES = {"cls": "cls", "max": "max", "mean": "mean", "lasttoken": "last-token"}
# a name with such an end is a file that is missing, no hub id
_FILE_SUFFIXES = (
    ".bin", ".csv", ".gz", ".html", ".jpg", ".json", ".jsonl", ".npy", ".npz", ".onnx", ".parquet", ".pkl", ".png",
    ".pt", ".pth", ".safetensors", ".tar", ".tgz", ".tsv", ".txt", ".yaml", ".yml", ".zip",
)  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_HUB_PATTERNS = [
    "*.json", "*.safetensors", "*.txt", "*.model", "*.jinja",
    "*/config.json", "*/*.safetensors", "*/tokenizer*", "*/vocab*", "*/*.json",
]  # fmt: skip


@dataclass
class FolderPlan:
    """What a model folder says about how a text becomes a vector.

    Attributes
    ----------
    root : Path
        The folder.
    weights : Path
        The folder of the encoder's weights and tokenizer (a sub-folder in old sentence-transformers layouts).
    kind : str
        "text", "clip-text", "static" or "dual".
    origin : str
        "embedkit", "sentence-transformers" or "transformers".
    spec : dict
        Settings: pooling, max_length, normalize, prompts, default_prompt; keys that the folder leaves open are absent.
    dense : list of (folder, settings)
        Dense layers kept at use time, in order.
    train_only : list of dict
        Settings of layers used in training only.
    """

    root: Path
    weights: Path
    kind: str
    origin: str
    spec: dict[str, Any] = field(default_factory=dict)
    dense: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    train_only: list[dict[str, Any]] = field(default_factory=list)
    lower_case: bool = False


def locate(
    name: str | Path, revision: str | None = None, code: bool = False, pickle: bool = False, *, fetch: bool = True
) -> Path:
    """The local folder of a model: `name` itself, or the snapshot of a hub id.

    A hub id that only a file names is looked for in the hub's cache with ``fetch=False`` and never downloaded.

    Raises
    ------
    ModelError
        When there is no such folder, or the hub cannot give it.
    """
    for scheme in ("local-dir:", "hf-hub:"):
        name = str(name).removeprefix(scheme) if str(name).startswith(scheme) else name
    text = str(name)
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        known = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, no permission, unknown ~user
        said = getattr(error, "strerror", None) or error
        raise ModelError(f"not a usable path ({said})", where=text[:200], remedy="check the path") from error
    if known:
        raise ModelError("is a file, not a model folder", where=text, remedy="give the folder that holds it")
    if not _HUB_ID.fullmatch(text) or text.count("/") > 1 or path.suffix.lower() in _FILE_SUFFIXES:
        raise ModelError("no such model folder", where=text, remedy="check the path, or give a hub id like org/name")
    return _snapshot(text, revision, code, pickle, fetch)


def _snapshot(name: str, revision: str | None, code: bool, pickle: bool, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [*_HUB_PATTERNS, *(["*.py"] if code else []), *(["*.bin"] if pickle else [])]
    # ONNX, OpenVINO and the like hold weights that are not read here
    ignored = ["onnx/*", "openvino/*", "coreml/*", "*.onnx"]
    ignored += [*([] if code else ["*.py"]), *([] if pickle else [f"*{suffix}" for suffix in _PICKLES])]
    if fetch:
        _log.warning("%s: no folder of this name, so taken for a hub id (revision %s)", name, revision or "main")
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=ignored, local_files_only=not fetch
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"neither a folder here nor a model that the hub can give ({reason})", where=name,
            remedy="check the name and the network" if fetch else f"fetch it once: hf download {name}",
        ) from error  # fmt: skip


def read_json(path: Path) -> Any:
    """The JSON value of a file.

    Raises
    ------
    ModelError
        When it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("file is missing", where=str(path), remedy="the model folder is incomplete") from None
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", where=str(path), remedy="check the folder") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"is not valid JSON ({error})", where=str(path), remedy="write the folder again") from None


def inspect(root: Path, *, trust_remote_code: bool = False, allow_pickle: bool = False) -> FolderPlan:
    """What `root` holds.

    Raises
    ------
    ModelError
        When it is no model folder, or has parts that this library does not know.
    UnsafeFileError
        When reading it would run code: a pickle, or remote code.
    """
    with _described(root):
        return _inspected(root, trust_remote_code, allow_pickle)


@contextlib.contextmanager
def _described(root: Path) -> Iterator[None]:
    """Whatever the descriptions in a folder lack, or hold in the wrong place, is the folder's fault and told so."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ModelError(
            f"a description in this folder is damaged ({said})", where=str(root), remedy="write the folder again"
        ) from error


def _inspected(root: Path, trust_remote_code: bool, allow_pickle: bool) -> FolderPlan:
    if (root / OWN_FILE).is_file():
        plan = _own(root)
    elif (root / OPEN_CLIP_FILE).is_file():
        _check_code(root, trust_remote_code)
        return FolderPlan(root, root, "dual", "open_clip")
    elif (root / "modules.json").is_file():
        plan = _sentence_transformers(root)
    elif (root / "config.json").is_file():
        kind = "dual" if _model_type(root) in DUAL_TYPES else "text"
        plan = FolderPlan(root, root, kind, "transformers")
    else:
        held = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
        raise ModelError(
            f"not a model folder: no config.json, modules.json or {OWN_FILE} (it holds {held})", where=str(root),
            remedy="give a folder written by embedkit, sentence-transformers or transformers",
        )  # fmt: skip
    _check_weights(plan, allow_pickle)
    _check_code(plan.weights, trust_remote_code)
    if plan.kind in ("text", "clip-text"):
        _check_text(plan.weights)
    return plan


def _model_type(folder: Path) -> str:
    known = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return str(known.get("model_type")) if isinstance(known, dict) else ""


def _own(root: Path) -> FolderPlan:
    saved = read_json(root / OWN_FILE)
    if not isinstance(saved, dict) or saved.get("format") != OWN_FORMAT or "kind" not in saved:
        found = saved.get("format") if isinstance(saved, dict) else type(saved).__name__
        raise ModelError(
            f"format {found!r} is not {OWN_FORMAT}", where=str(root / OWN_FILE), remedy="use the embedkit that wrote it"
        )
    spec = dict(saved["spec"])
    layers = spec.pop("dense", [])
    dense = [(_inside(root, layer.pop("folder"), OWN_FILE), layer) for layer in layers if not layer["train_only"]]
    train_only = [layer for layer in layers if layer["train_only"]]
    return FolderPlan(root, root, saved["kind"], "embedkit", spec, dense, train_only)


def _sentence_transformers(root: Path) -> FolderPlan:
    listing = root / "modules.json"
    modules = read_json(listing)
    plan = FolderPlan(root, root, "text", "sentence-transformers", {"normalize": False})
    if not isinstance(modules, list) or not all(isinstance(m, dict) and "type" in m for m in modules):
        raise ModelError("is not a list of modules", where=str(listing), remedy="write the folder again")
    names = []
    for module in modules:
        kind = str(module["type"])
        names.append(kind.rpartition(".")[2])
        if not kind.startswith("sentence_transformers.") or names[-1] not in (*_MODULES, "CLIPModel"):
            raise ModelError(
                f"module {kind!r} is not known", where=str(listing), remedy=f"known modules: {', '.join(_MODULES)}"
            )
    if names[0] == "CLIPModel" or _model_type(_inside(root, modules[0].get("path", ""))) in DUAL_TYPES:
        return _dual_modules(plan, names, modules)
    if not _SEQUENCE.fullmatch(" ".join(names)):
        raise ModelError(f"modules in the order {', '.join(names)} are not supported", where=str(listing))
    for name, module in zip(names, modules, strict=True):
        _MODULE_READERS[name](plan, _inside(root, module.get("path", "")))
    _model_settings(plan)
    return plan


def _dual_modules(plan: FolderPlan, names: list[str], modules: list[dict[str, Any]]) -> FolderPlan:
    """A CLIP model as one module, in the layout of before and after version 5.4."""
    if " ".join(names) not in ("CLIPModel", "CLIPModel Normalize", "Transformer", "Transformer Normalize"):
        raise ModelError(f"modules in the order {', '.join(names)} are not supported", where=str(plan.root))
    plan.kind, plan.weights = "dual", _inside(plan.root, modules[0].get("path", ""))
    plan.spec["normalize"] = names[-1] == "Normalize"
    for file in sorted(plan.weights.glob("sentence_*_config.json")):
        saved = read_json(file)
        for kind, known in (saved.get("modality_config") or {}).items():
            if kind not in ("text", "image") or known.get("method") != f"get_{kind}_features":
                raise ModelError(f"a {kind} goes through {known.get('method')!r} of the model", where=str(file))
    _model_settings(plan)
    return plan


def _model_settings(plan: FolderPlan) -> None:
    """Prompts and the rest of config_sentence_transformers.json."""
    settings = plan.root / "config_sentence_transformers.json"
    saved = read_json(settings) if settings.is_file() else {}
    if saved.get("truncate_dim"):
        raise ModelError(
            f"vectors are cut to {saved['truncate_dim']} coordinates", where=str(settings),
            remedy="remove truncate_dim there and pass it to encode",
        )  # fmt: skip
    prompts = {name: text for name, text in (saved.get("prompts") or {}).items() if text}
    plan.spec["prompts"] = prompts
    default = saved.get("default_prompt_name")
    plan.spec["default_prompt"] = default if default in prompts else None


def _inside(root: Path, path: str, listing: str = "modules.json") -> Path:
    """A module's folder, which must lie in the model folder."""
    folder = (root / path).resolve()
    if not folder.is_relative_to(root.resolve()):
        raise UnsafeFileError(
            f"module path {path!r} leaves the model folder", where=str(root / listing), remedy="write the folder again"
        )
    return root / path


def _transformer(plan: FolderPlan, folder: Path) -> None:
    plan.weights = folder
    for file in sorted(folder.glob("sentence_*_config.json")):
        saved = read_json(file)
        text = (saved.get("modality_config") or {}).get("text", {})
        method, output = text.get("method", "forward"), text.get("method_output_name", "last_hidden_state")
        if (method, output) != ("forward", "last_hidden_state"):
            raise ModelError(f"a text goes through {method!r} of the model, which is not supported", where=str(file))
        if saved.get("max_seq_length"):
            plan.spec["max_length"] = int(saved["max_seq_length"])
        plan.lower_case = bool(saved.get("do_lower_case", False))


def _static(plan: FolderPlan, folder: Path) -> None:
    plan.kind, plan.weights = "static", folder


def _pooling(plan: FolderPlan, folder: Path) -> None:
    saved = read_json(folder / "config.json")
    modes = saved.get("pooling_mode") or [name for flag, name in _POOLING_FLAGS.items() if saved.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in POOLING_NAMES:
        raise ModelError(
            f"pooling {'+'.join(modes)} is not supported", where=str(folder / "config.json"),
            remedy=f"supported: {', '.join(POOLING_NAMES)}",
        )  # fmt: skip
    if not saved.get("include_prompt", True):
        raise ModelError("pooling that leaves out the prompt is not supported", where=str(folder / "config.json"))
    plan.spec["pooling"] = POOLING_NAMES[modes[0]]


def _dense(plan: FolderPlan, folder: Path) -> None:
    saved = read_json(folder / "config.json")
    ends = {saved.get("module_input_name"), saved.get("module_output_name")}
    if saved.get("use_residual") or not ends <= {None, "sentence_embedding"}:
        raise ModelError(
            "a Dense module with a residual or on token vectors is not supported", where=str(folder / "config.json")
        )
    activation = str(saved.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2].lower()
    plan.dense.append(
        (
            folder,
            {
                "inputs": saved["in_features"], "outputs": saved["out_features"], "activation": activation,
                "bias": saved.get("bias", True), "train_only": False,
            },
        )
    )  # fmt: skip


def _normalize(plan: FolderPlan, folder: Path) -> None:
    plan.spec["normalize"] = True


_MODULE_READERS = {
    "Transformer": _transformer,
    "StaticEmbedding": _static,
    "Pooling": _pooling,
    "Dense": _dense,
    "Normalize": _normalize,
}


def _check_weights(plan: FolderPlan, allow_pickle: bool) -> None:
    for folder in [plan.weights, *(folder for folder, _ in plan.dense)]:
        if not folder.is_dir():
            raise ModelError("folder is missing", where=str(folder), remedy="the model folder is incomplete")
        _check_shards(folder)
        if any(folder.glob("*.safetensors")):
            continue
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
        if not pickles:
            raise ModelError("no weights (*.safetensors) in the folder", where=str(folder), remedy="copy it completely")
        if not allow_pickle:
            raise UnsafeFileError(
                f"the weights are a pickle ({pickles[0]}), which can run code when it is read", where=str(folder),
                remedy="convert it to safetensors, or load with allow_pickle=True",
            )  # fmt: skip


def _check_shards(folder: Path) -> None:
    """Files of weights that are named in another file must be safetensors of this folder."""
    index, config = folder / "model.safetensors.index.json", folder / "config.json"
    named = [*read_json(index)["weight_map"].values()] if index.is_file() else []
    named += [*_values(read_json(config), "transformers_weights")] if config.is_file() else []
    for name in filter(None, named):
        if Path(name).name != name or not name.endswith((".safetensors", ".safetensors.index.json")):
            raise UnsafeFileError(
                f"names the weights {name!r}, no safetensors of this folder", where=str(folder),
                remedy="convert them to safetensors beside it",
            )  # fmt: skip


_MAY_NAME_CODE = (
    "config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "image_processor_config.json",
)  # fmt: skip


def _check_code(folder: Path, trust_remote_code: bool) -> None:
    """Refuse what transformers would run, or fetch from elsewhere, because a file of the folder says so."""
    for name in _MAY_NAME_CODE:
        path = folder / name
        known = read_json(path) if path.is_file() else {}
        if _names_code(known) and not trust_remote_code:
            raise UnsafeFileError(
                "the model brings its own code (auto_map)", where=str(path),
                remedy="read that code, then load with trust_remote_code=True and a pinned revision",
            )  # fmt: skip
        if any("/" in str(kernel) for kernel in _values(known, "attn_implementation", "_attn_implementation")):
            raise UnsafeFileError(
                "names attention kernels on the hub, which are code", where=str(path),
                remedy="take attn_implementation out of the file",
            )  # fmt: skip
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            "holds an adapter of peft, which is no model", where=str(folder / "adapter_config.json"),
            remedy="merge it into its model (merge_and_unload) and save that",
        )  # fmt: skip


def _names_code(known: Any) -> bool:
    return any(True for _ in _values(known, "auto_map"))


def _values(known: Any, *keys: str) -> Iterator[Any]:
    """What stands under some keys at any depth of a JSON value."""
    waiting = [known]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from (value[key] for key in keys if key in value)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _check_text(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError("file is missing", where=str(folder / "config.json"), remedy="the model folder is incomplete")
    config = read_json(folder / "config.json")
    if "model_type" not in config and "architectures" not in config:
        raise ModelError("names no model_type", where=str(folder / "config.json"), remedy="is it a transformers model?")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError("no tokenizer in the folder", where=str(folder), remedy="copy tokenizer.json there")


_TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
    "tokenizer_config.json",
)  # fmt: skip
