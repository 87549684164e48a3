"""Whether the oldest sentence-transformers that pyproject.toml allows reads what embedkit writes, with equal vectors.

It is installed without its dependencies into a folder of its own (.ci/oldest), so that torch and transformers are
those at hand; `eval/benchmarks/roundtrip.py` then compares both versions.
"""

from __future__ import annotations

import re
import subprocess  # nosec B404
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent


def floor(package: str = "sentence-transformers") -> str:
    """The oldest version of `package` that an extra of pyproject.toml allows."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for requirement in (line for lines in extras.values() for line in lines):
        match = re.fullmatch(rf"{re.escape(package)}(?:\[.*\])?>=([\d.]+).*", requirement)
        if match:
            return match[1]
    raise SystemExit(f"pyproject.toml names no oldest {package}")


def install(folder: Path, oldest: str) -> Path:
    """The folder with that version in it, installed unless it is there already."""
    if not any(folder.glob(f"sentence_transformers-{oldest}*.dist-info")):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
        subprocess.run([*command, f"sentence-transformers=={oldest}"], check=True)  # nosec B603
    return folder


def main() -> int:
    """Install and compare; the exit code of the comparison."""
    oldest = install(ROOT / ".ci" / "oldest", floor())
    script = ROOT / "eval" / "benchmarks" / "roundtrip.py"
    return subprocess.run([sys.executable, str(script), "--text-only", "--also", str(oldest)], check=False).returncode  # nosec B603


if __name__ == "__main__":
    raise SystemExit(main())
