"""sentence-transformers' folders, read without that library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedkit.formats.folder import DUAL_TYPES, FolderPlan, inside, model_type, read_json
from embedkit.formats.registry import FolderReader, readers

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder

import re
from pathlib import Path
from typing import Any

from embedkit.errors import ModelError

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


@readers.add("sentence-transformers")
class SentenceTransformersReader(FolderReader):
    """Folders with a ``modules.json``."""

    name, mark, rank = "sentence-transformers", "modules.json", 2

    def plan(self, root: Path) -> FolderPlan:
        """See `FolderReader.plan`."""
        return plan_of_modules(root)

    def dual(self, plan: FolderPlan, *, allow_pickle: bool = False) -> DualEncoder:
        """See `FolderReader.dual`."""
        from embedkit.formats.transformers.dual_reader import read

        return read(plan, allow_pickle=allow_pickle)


def plan_of_modules(root: Path) -> FolderPlan:
    """The plan of a folder with a ``modules.json``."""
    listing = root / "modules.json"
    modules = read_json(listing)
    plan = FolderPlan(root, root, "text", spec={"normalize": False})
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
    if names[0] == "CLIPModel" or model_type(inside(root, modules[0].get("path", ""))) in DUAL_TYPES:
        return _dual_modules(plan, names, modules)
    if not _SEQUENCE.fullmatch(" ".join(names)):
        raise ModelError(f"modules in the order {', '.join(names)} are not supported", where=str(listing))
    for name, module in zip(names, modules, strict=True):
        _MODULE_READERS[name](plan, inside(root, module.get("path", "")))
    _model_settings(plan)
    return plan


def _dual_modules(plan: FolderPlan, names: list[str], modules: list[dict[str, Any]]) -> FolderPlan:
    """A CLIP model as one module, in the layout of before and after version 5.4."""
    if " ".join(names) not in ("CLIPModel", "CLIPModel Normalize", "Transformer", "Transformer Normalize"):
        raise ModelError(f"modules in the order {', '.join(names)} are not supported", where=str(plan.root))
    plan.kind, plan.weights = "dual", inside(plan.root, modules[0].get("path", ""))
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
