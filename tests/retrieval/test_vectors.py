"""Vectors of a mapped file: what is given back of its pages, and that no change of them is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedkit.retrieval.vectors import Vectors, open_vectors

MAPS = Path("/proc/self/smaps")
MIB = 2**20


def mapped(path: Path) -> int:
    """Bytes of a file that this process has mapped and in memory; what else the process holds does not count."""
    resident, ours = 0, False
    for line in MAPS.read_text().splitlines():
        first, *others = line.split()
        if not first.endswith(":"):  # the line that begins a map: addresses, rights, offset, device, inode, file
            ours = bool(others) and others[-1] == str(path)
        elif ours and first == "Rss:":
            resident += int(others[0]) * 1024
    return resident


@pytest.mark.skipif(not MAPS.is_file(), reason="needs /proc")
def test_pages_of_a_file_are_given_back_and_read_again(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((65_536, 256), dtype=np.float32)  # 64 MiB
    path = tmp_path / "v.npy"
    np.save(path, table)
    vectors = open_vectors(path, len(table), "rows", unit=False)
    assert mapped(path) < 4 * MIB  # the check has read all of it
    part = vectors.select(range(1, len(table)))
    total = sum(float(part.rows(slice(start, start + 512)).sum()) for start in range(0, len(table), 512))
    assert mapped(path) > 60 * MIB
    part.release()
    assert mapped(path) < 4 * MIB
    again = sum(float(part.rows(slice(start, start + 512)).sum()) for start in range(0, len(table), 512))
    assert again == total
    assert np.array_equal(vectors.rows([5, 65_535]), table[[5, 65_535]])


def test_changes_of_a_private_map_stay(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((2048, 4), np.float32))
    private = np.load(tmp_path / "v.npy", mmap_mode="c")
    private[7] = 2
    shared = np.lib.format.open_memmap(tmp_path / "w.npy", "w+", np.float32, (2048, 4))
    shared[:] = 3
    for table, value in ((private, 2), (shared, 3)):
        vectors = Vectors(np.asarray(table), "v", unit=False)
        vectors.release()
        assert vectors.rows([7]).tolist() == [[value] * 4]
        assert table[7].tolist() == [value] * 4
