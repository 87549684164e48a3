"""Memory of this process and of the machine, as the system counts it."""

from __future__ import annotations

from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def resident_bytes() -> int:
    """Bytes of this process that are in memory now (RSS); 0 where the system does not say.

    Examples
    --------
    >>> from embedkit.system.memory import resident_bytes
    >>> resident_bytes() >= 0
    True
    """
    return _field(Path("/proc/self/status"), "VmRSS:") or 0


def available_bytes() -> int | None:
    """Bytes that this process may still take: of the machine, and of its control group where that has a limit.

    None where the system does not say (it has no ``/proc/meminfo``).

    Examples
    --------
    >>> from embedkit.system.memory import available_bytes
    >>> available_bytes() != 0
    True
    """
    figures = [_field(Path("/proc/meminfo"), "MemAvailable:"), *_group_rooms()]
    rooms = [room for room in figures if room is not None]
    return min(rooms) if rooms else None


def _group_rooms() -> list[int | None]:
    """What is left under the limits of the control group, version 2 and version 1."""
    rooms: list[int | None] = []
    for folder, limit, use in (
        (_GROUPS, "memory.max", "memory.current"),
        (_GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        most, now = _number(folder / limit), _number(folder / use)
        if most is not None and now is not None:
            cache = _field(folder / "memory.stat", "inactive_file", unit=1) or 0  # given back on demand
            rooms.append(max(0, most - now + cache))
    return rooms


def _number(path: Path) -> int | None:
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None  # "max" is no limit


def _field(path: Path, name: str, unit: int = 1024) -> int | None:
    if not path.is_file():
        return None
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return next((int(parts[1]) * unit for parts in lines if len(parts) > 1 and parts[0] == name), None)
