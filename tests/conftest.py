"""What every test shares: no network, one thread, the folder of real data when it is there."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# Read by torch, tokenizers and huggingface_hub when they are imported, here and in child processes.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
# Child processes find the checkout whether or not it is installed.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

# The same examples in every run, however slow the machine, and no folder of earlier ones.
settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("suite")


class NetworkBlockedError(RuntimeError):
    """A test reached for the network."""


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):  # a Unix socket
        return True
    host = address[0]
    if isinstance(host, bytes):
        host = host.decode()
    return host in ("", "localhost", "::1", "0.0.0.0", socket.gethostname()) or str(host).startswith("127.")


@contextlib.contextmanager
def blocked_network() -> Iterator[None]:
    """Inside, only the loopback interface can be reached from Python code."""
    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex"):
        real = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any, _real: Any = real) -> Any:
            if not _is_local(address):
                raise NetworkBlockedError(f"tests may not reach the network: {address}")
            return _real(self, address)

        patch.setattr(socket.socket, name, guarded)
    real_lookup = socket.getaddrinfo

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host is not None and not _is_local((host,)):
            raise NetworkBlockedError(f"tests may not look up names: {host}")
        return real_lookup(host, *args, **kwargs)

    patch.setattr(socket, "getaddrinfo", lookup)
    try:
        yield
    finally:
        patch.undo()


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    with blocked_network():
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped where it is missing."""
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip(f"needs the data folder {path}, which is not on this machine")
    return path
