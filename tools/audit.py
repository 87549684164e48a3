"""Known vulnerabilities in the installed packages. Run: python tools/audit.py

pip-audit asks the service of PyPI. Where that cannot be reached, some registries answer for it that they know no
package, which pip-audit reads as "nothing found"; so a package with a known vulnerability is asked for first, and
only a service that knows it is believed.
"""

from __future__ import annotations

import json
import subprocess  # nosec B404
import sys
import tempfile
from pathlib import Path
from typing import Any

KNOWN = "jinja2==2.4.1"
"""Has had an entry since 2014 (CVE-2014-1402)."""


def ask(*words: str) -> list[dict[str, Any]] | None:
    """What pip-audit found, a package an entry; None when it got no answer."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", *words]
    # fixed words for the pip-audit of this environment, no shell
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)  # nosec B603
    try:
        return list(json.loads(result.stdout)["dependencies"])
    except (ValueError, KeyError, TypeError):
        return None


def reached() -> bool:
    """Whether the service knows what everybody knows."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "known.txt"
        file.write_text(KNOWN + "\n", encoding="utf-8")
        reports = ask("--requirement", str(file), "--no-deps", "--disable-pip")
    return bool(reports and reports[0].get("vulns"))


def told(packages: list[dict[str, Any]]) -> list[str]:
    """A line for each vulnerability."""
    lines = []
    for package in packages:
        for entry in package.get("vulns", []):
            mended = ", ".join(entry.get("fix_versions", [])) or "no release yet"
            lines.append(f"{package['name']} {package.get('version')}: {entry['id']}, mended in {mended}")
    return lines


def main() -> int:
    """Print what was found; 1 when a package is vulnerable, 0 when none is or nobody could be asked."""
    packages = ask("--local", "--skip-editable") if reached() else None
    if packages is None:
        print("pip-audit: the service of vulnerabilities cannot be reached from here, so nothing was audited")
        return 0
    lines, unaudited = told(packages), [package["name"] for package in packages if "skip_reason" in package]
    print("\n".join(lines) if lines else f"pip-audit: nothing known against {len(packages) - len(unaudited)} packages")
    if unaudited:
        print(f"not on PyPI, so not audited: {', '.join(unaudited)}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
