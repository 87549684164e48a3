"""What a release carries: an sdist that gives the same wheel, a wheel that installs, files that agree."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import embedkit
from embedkit.config.recipe import OLD_KEYS


@pytest.mark.slow
def test_the_sdist_gives_the_wheel_and_the_wheel_installs(root: Path, tmp_path: Path) -> None:
    wheels = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling, of the dev extra")
    from hatchling.builders.sdist import SdistBuilder

    (direct,) = wheels.WheelBuilder(str(root)).build(directory=str(tmp_path / "direct"), versions=["standard"])
    (archive,) = SdistBuilder(str(root)).build(directory=str(tmp_path / "sdist"), versions=["standard"])
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    (folder,) = (tmp_path / "unpacked").iterdir()
    assert folder.name == f"embedkit-{embedkit.__version__}"
    (again,) = wheels.WheelBuilder(str(folder)).build(directory=str(tmp_path / "again"), versions=["standard"])
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(direct).namelist())
    target = tmp_path / "installed"
    words = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target), again]
    subprocess.run([sys.executable, *words], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    wanted = {"--version": f"embedkit {embedkit.__version__}", "recipes quickstart": "name: quickstart"}
    for command_words, says in wanted.items():
        command = [sys.executable, "-m", "embedkit", *command_words.split()]
        found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert says in found.stdout
    assert (target / "bin" / "embedkit").is_file()


def test_the_citation_is_of_this_version(root: Path) -> None:
    facts = yaml.safe_load((root / "CITATION.cff").read_text())
    assert facts["version"] == embedkit.__version__ and facts["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(facts) and facts["license"] == "Apache-2.0"


def test_the_upgrade_page_names_every_old_key(root: Path) -> None:
    page = (root / "docs" / "upgrading.md").read_text()
    assert dict(re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", page, re.MULTILINE)) == OLD_KEYS


def test_containers_run_the_commands_of_the_readme(root: Path) -> None:
    """They are not built here: what they run is README's two commands."""
    first, second = re.findall(r"^python3 -m venv .*$", (root / "README.md").read_text(), re.MULTILINE)
    install = second.rpartition(" && ")[0]
    lines = (root / ".devcontainer" / "Dockerfile").read_text().splitlines()
    assert [line.strip().removesuffix("; \\") for line in lines if "python3 -m venv" in line] == [install, first]
    left_out = set((root / ".devcontainer" / "Dockerfile.dockerignore").read_text().split("\n"))
    ignored = {line.rstrip("/") for line in (root / ".gitignore").read_text().split("\n")}
    everywhere = {name.removeprefix("**/") for name in left_out}
    assert ".git" in left_out and {".venv*", "runs", "build", "dist", "__pycache__"} <= everywhere & ignored
    assert json.loads((root / ".devcontainer" / "devcontainer.json").read_text())["postCreateCommand"] == install


@pytest.mark.parametrize("name", ["bug", "score", "proposal"])
def test_templates_of_issues_have_their_heads(root: Path, name: str) -> None:
    path = root / "docs" / "ISSUE_TEMPLATE" / f"{name}.md"
    head = yaml.safe_load(path.read_text().split("---\n")[1])
    assert head["name"] and head["about"] and set(head) == {"name", "about", "title", "labels"}
    for link in re.findall(r"\]\(([\w./-]+)\)", path.read_text()):
        assert (path.parent / link).resolve().is_file(), link
