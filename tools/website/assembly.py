"""The folder that mkdocs reads: docs/ as it is, pages from elsewhere in the repository, and generated ones."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from . import reference, settings_page

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

ELSEWHERE = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "eval/methods.md": "methods-compared.md",
    "eval/images.md": "images-compared.md",
    "eval/image_text.md": "image-text-compared.md",
    "eval/reproduce.md": "reproduce.md",
    "eval/benchmarks/objectives.md": "objectives-timed.md",
}
"""Pages that stand outside docs/, and where the site has them."""

FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def assemble(folder: Path) -> None:
    """Write into `folder` all that mkdocs reads.

    Links to files of the repository that are no page lead to copies of them, so that none leaves the site.

    Raises
    ------
    FileNotFoundError
        A page links to a file that is not there; the message names both.
    """
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("__pycache__", "ISSUE_TEMPLATE"))
    shutil.copytree(HERE / "assets", folder / "assets")
    sources = {path.relative_to(folder).as_posix(): ROOT / "docs" / path.relative_to(folder)
               for path in folder.rglob("*.md")}  # fmt: skip
    sources |= {name: ROOT / source for source, name in ELSEWHERE.items()}
    for name, source in sources.items():
        (folder / name).write_text(_relinked(source, name, folder), encoding="utf-8")
    generated = {"settings.md": settings_page.page(), "gallery.md": gallery(), **notebooks(folder), **reference.pages()}
    for name, text in generated.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def gallery() -> str:
    """The page of all scripts of examples/, whole, with links to the pages of its notebooks."""
    parts = [
        "# Gallery\n",
        "Each notebook and script is a whole run on data that it makes itself; the tests run it as it stands.\n",
        "## Notebooks\n",
    ]
    for path in _notebooks():
        cells = _cells(path)
        title, _, first = cells[0][1].partition("\n\n")
        parts.append(f"- [{title.removeprefix('# ')}](notebooks/{path.stem}.md): {_one_line(first)}")
    parts.append("")
    for script in sorted((ROOT / "examples").glob("*.py")):
        code = script.read_text(encoding="utf-8").rstrip()
        parts.append(f"## {script.stem.replace('_', ' ').capitalize()}\n\n```python\n{code}\n```\n")
    return "\n".join(parts)


def notebooks(folder: Path) -> dict[str, str]:
    """A page for each notebook, its prose and its code, above it a link to the file, which is copied into `folder`."""
    pages = {}
    for path in _notebooks():
        copy = folder / "notebooks" / path.name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
        (_, opening), *rest = _cells(path)
        title, _, first = opening.partition("\n\n")
        parts = [title, f"[Download this notebook]({path.name}); run it to see its pictures.", first]
        parts += [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in rest]
        pages[f"notebooks/{path.stem}.md"] = "\n\n".join(parts) + "\n"
    return pages


def _notebooks() -> list[Path]:
    return sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def _cells(path: Path) -> list[tuple[str, str]]:
    """Kind and text of each cell of a notebook; the first has its title and what it does."""
    book = json.loads(path.read_text(encoding="utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in book["cells"]]


def _one_line(text: str) -> str:
    """The first paragraph on one line."""
    return " ".join(text.partition("\n\n")[0].split())


def _relinked(source: Path, name: str, folder: Path) -> str:
    """The text of a page with its links as they are on the site."""
    text = source.read_text(encoding="utf-8")

    def anew(match: re.Match[str]) -> str:
        target = _on_site((source.parent / match[2]).resolve(), source, folder)
        return match[1] + os.path.relpath(target, Path(name).parent).replace(os.sep, "/") + match[3]

    pieces, end = [], 0
    for fence in FENCE.finditer(text):
        pieces += [LINK.sub(anew, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, LINK.sub(anew, text[end:])])


def _on_site(target: Path, source: Path, folder: Path) -> str:
    """Where the site has a file of the repository; a file that is no page is copied."""
    if target.is_dir():
        target = next(
            (
                target / name
                for name in ("README.md", "pyproject.toml", "bug.md", "first_run.py")
                if (target / name).is_file()
            ),
            target,
        )
    path = target.relative_to(ROOT).as_posix()
    if path in ELSEWHERE:
        return ELSEWHERE[path]
    if path in ("docs/settings.md", "docs/gallery.md") or path.startswith("docs/api/"):
        return path.removeprefix("docs/")  # a page that the site alone has
    if not target.is_file() or (target.suffix == ".md" and not path.startswith("docs/")):
        raise FileNotFoundError(f"{source.relative_to(ROOT)}: a link to {path}, which is no page and no file")
    if path.startswith("docs/") and "ISSUE_TEMPLATE" not in path:
        return path.removeprefix("docs/")
    if target.suffix == ".md":
        path += ".txt"  # shown as it is
    copy = folder / "files" / path
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(target, copy)
    return f"files/{path}"


def configuration(pages: Path, output: Path) -> Any:
    """The configuration of mkdocs for these folders; every warning is an error.

    Returns
    -------
    mkdocs.config.defaults.MkDocsConfig
    """
    from mkdocs.config import load_config

    config = load_config(str(HERE / "mkdocs.yml"), docs_dir=str(pages), site_dir=str(output), strict=True)
    (chapter,) = [entry["Reference"] for entry in config.nav or [] if "Reference" in entry]
    chapter[-1] = {"API": list(reference.pages())}
    in_nav = set(re.findall(r"[\w./-]+\.md", str(config.nav)))
    others = sorted(path.relative_to(pages).as_posix() for path in pages.rglob("*.md"))
    (topics,) = [entry["Topics"] for entry in config.nav or [] if "Topics" in entry]
    topics += [name for name in others if name not in in_nav]  # a new page has a place before it is given one
    return config
