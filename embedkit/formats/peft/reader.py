"""Folders that hold an adapter of peft alone; the base model is read from this machine and the adapter is merged."""

from __future__ import annotations

from pathlib import Path

from embedkit.errors import ModelError, UnsafeFileError, need
from embedkit.formats.detect import locate
from embedkit.formats.folder import FolderPlan, Settings, read_json
from embedkit.formats.registry import FolderReader, readers
from embedkit.formats.safety import has_tokenizer
from embedkit.formats.transformers.pooling import default_pooling

ADAPTER, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# what peft needs to know of them decides no vector once an adapter is merged
_OTHER_KINDS = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT", "MULTITASK_PROMPT_TUNING", "CPT")


@readers.add("peft")
class PeftReader(FolderReader):
    """Folders with an ``adapter_config.json`` and no model beside it.

    Examples
    --------
    >>> Path("only-adapter").mkdir()
    >>> Path("only-adapter/adapter_config.json").touch()
    >>> PeftReader().reads(Path("only-adapter"))
    True
    """

    name, mark, rank = "peft", ADAPTER, 3

    def plan(self, root: Path) -> FolderPlan:
        """See `FolderReader.plan`."""
        plan = FolderPlan(root, root, "text")
        place_on_base(plan, root)
        default_pooling(plan)
        return plan


def place_on_base(plan: FolderPlan, folder: Path) -> None:
    """Point a plan at the base model of the adapter in `folder`, which is looked for on this machine only.

    Raises
    ------
    ModelError
        The base is not available, or the adapter cannot be merged into it.
    UnsafeFileError
        The adapter's weights are a pickle, or its settings name code.

    Examples
    --------
    >>> Path("lora/base").mkdir(parents=True)
    >>> _ = Path("lora/adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "base"}')
    >>> Path("lora/adapter_model.safetensors").touch()
    >>> plan = FolderPlan(Path("lora"), Path("lora"), "text")
    >>> place_on_base(plan, Path("lora"))
    >>> plan.weights.as_posix()
    'lora/base'
    """
    need("peft", "lora", "an adapter of peft")
    path = folder / ADAPTER
    settings = Settings(read_json(path), path)
    if settings.get("megatron_config"):
        raise UnsafeFileError("names a module to import (megatron_core)", where=str(path), remedy="take it out")
    kind = str(settings.get("peft_type"))
    if kind in _OTHER_KINDS:
        raise ModelError(f"an adapter of kind {kind} cannot be merged", where=str(path), remedy="use LoRA or its kin")
    if str(settings.get("init_lora_weights")).startswith("pissa_niter_"):
        raise ModelError(
            f"the adapter started from {settings['init_lora_weights']}, which takes random parts of the base away, "
            "never the same twice", where=str(path), remedy="merge it where it was trained, and save that",
        )  # fmt: skip
    if not (folder / WEIGHTS).is_file():
        raise UnsafeFileError(
            f"the adapter has no {WEIGHTS}",
            where=str(folder),
            remedy="save it as safetensors, which peft does when it is not told otherwise",
        )
    plan.adapter, plan.weights = folder, base_of(folder, str(settings.get("base_model_name_or_path") or ""))
    plan.tokenizer = folder if has_tokenizer(folder) else plan.weights


def base_of(folder: Path, name: str) -> Path:
    """The folder of an adapter's base model: a path as it stands or from the adapter's folder on, or a model in the
    hub's cache.

    Raises
    ------
    ModelError
        It is not on this machine.

    Examples
    --------
    >>> Path("adapter/base").mkdir(parents=True)
    >>> base_of(Path("adapter"), "base").as_posix()
    'adapter/base'
    """
    if not name:
        raise ModelError("names no base model", where=str(folder / ADAPTER), remedy="add base_model_name_or_path")
    beside = folder / name
    if not Path(name).is_dir() and beside.is_dir():
        return beside
    try:
        return locate(name, fetch=False)
    except ModelError as error:
        raise ModelError(
            f"the base model {name!r} of the adapter is not on this machine", where=str(folder / ADAPTER),
            remedy=f"fetch it once: hf download {name}" if name.count("/") < 2 and not name.startswith(("/", "."))
            else "write the base model's folder into base_model_name_or_path",
        ) from error  # fmt: skip
