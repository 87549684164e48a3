"""What a score needs beside it so that it can be repeated: model, machine, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import sys
from datetime import datetime, timezone
from typing import Any

import embedkit

_PACKAGES = ("numpy", "torch", "transformers", "tokenizers", "sentence-transformers", "open_clip_torch", "datasets",
             "scikit-learn", "mteb")  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python, embedkit and of the installed packages that can change a score; imports none of them.

    Examples
    --------
    >>> {"python", "embedkit", "numpy"} <= set(versions())
    True
    """
    facts = {"python": platform.python_version(), "embedkit": embedkit.__version__}
    for name in _PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def now() -> str:
    """The time in UTC, ISO 8601, to the second.

    Examples
    --------
    >>> now()
    '20...+00:00'
    """
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def machine() -> dict[str, Any]:
    """Processor architecture, and the settings of torch that change the last digits of a vector.

    Examples
    --------
    >>> {"platform", "processor"} <= set(machine())
    True
    """
    facts: dict[str, Any] = {"platform": platform.platform(), "processor": platform.machine()}
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["threads"] = torch.get_num_threads()
        facts["matmul_precision"] = torch.get_float32_matmul_precision()
        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name()
    return facts


def weights_hash(model: Any) -> str:
    """SHA-256 over names, types, shapes and bytes of a torch module's state.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 1)
    >>> before = weights_hash(layer)
    >>> layer.bias.data += 1
    >>> len(before), weights_hash(layer) == before
    (64, False)
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {flat.dtype} {tuple(flat.shape)}\n".encode())
        digest.update(flat.flatten().view(_bytes_type()).numpy().tobytes())
    return digest.hexdigest()


def _bytes_type() -> Any:
    import torch

    return torch.uint8


def describe_model(model: Any, name: str | None = None) -> dict[str, Any]:
    """What is known of a model: its own ``describe()``, else its class, weights and maximum length.

    ``hash`` is None where nothing tells two models of this class apart; then no cache is used.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> describe_model(SimpleNamespace(max_seq_length=128), "mine")
    {'class': 'types.SimpleNamespace', 'hash': None, 'max_length': 128, 'name': 'mine'}
    """
    if hasattr(model, "describe"):
        facts = dict(model.describe())
    else:
        facts = {"class": f"{type(model).__module__}.{type(model).__qualname__}", "hash": None}
        if hasattr(model, "state_dict"):
            facts["hash"] = weights_hash(model)
            facts["dtype"] = str(next(iter(model.state_dict().values())).dtype).removeprefix("torch.")
        for key, attribute in (("max_length", "max_seq_length"), ("prompts", "prompts")):
            if isinstance(getattr(model, attribute, None), int | str | dict):
                facts[key] = getattr(model, attribute)
    if name is not None:
        facts["name"] = name
    device = getattr(model, "device", None)
    if device is not None:
        facts["device"] = str(device)
    return facts


def model_key(description: dict[str, Any]) -> str | None:
    """What decides a model's vectors besides input and prompt, as one text; None without a hash of its content.

    Examples
    --------
    >>> model_key({"name": "mine", "hash": "c601fd74", "pooling": "mean"})
    'hash=c601fd74\\npooling=mean'
    >>> model_key({"name": "mine", "hash": None}) is None
    True
    """
    if not description.get("hash"):
        return None
    parts = [f"{key}={description[key]}" for key in sorted(description) if key not in ("name", "path")]
    return "\n".join(parts)
