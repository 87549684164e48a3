"""The notebooks of examples/notebooks/ run from beginning to end, draw something, and are stored without outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the dev extra")
nbclient = pytest.importorskip("nbclient", reason="needs the dev extra")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "examples" / "notebooks").glob("*.ipynb"))
BLOCK = "import tests.conftest\nblock = tests.conftest.blocked_network()\nblock.__enter__()"
"""The first cell of a kernel, which is a process of its own: no network but loopback."""


def read(path: Path) -> Any:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    return book


def test_there_are_four() -> None:
    names = ["clip_on_photos", "first_fine_tune", "methods_compared", "mining_to_search"]
    assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs_and_traces_of_a_machine(path: Path) -> None:
    book = read(path)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None or cell.metadata] == []
    assert set(book.metadata) == {"kernelspec", "language_info"}
    assert book.metadata.kernelspec.name == "python3"
    text = "\n".join(cell.source for cell in book.cells)
    assert re.findall(r"(?:^|[\s\"'(])(?:/\w+/|~/|[A-Z]:\\)", text) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_draws(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own draws into the notebook
    work = tmp_path / "work"
    work.mkdir()
    book = read(path)
    book.cells.insert(0, nbformat.v4.new_code_cell(BLOCK))
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(work)}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.evalue for output in outputs if output.output_type == "error"] == []
    assert [output for output in outputs if "image/png" in output.get("data", {})]
