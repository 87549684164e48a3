"""Build the site. Run: python -m tools.website [FOLDER], by default build/site.

A dead link, a missing anchor, a page that the navigation lacks or a name of the API that is gone ends it with an error.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from .assembly import ROOT, assemble, configuration


def build(output: Path) -> None:
    """Write the site into `output`; everything in that folder is replaced.

    Raises
    ------
    mkdocs.exceptions.Abort
        A warning of mkdocs or of one of its plugins.
    """
    from mkdocs.commands.build import build as run

    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder).resolve() / "docs"
        assemble(pages)
        run(configuration(pages, output.resolve()))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"
    if target.name.startswith("-"):
        sys.exit(__doc__)
    build(target)
    print(f"{target / 'index.html'}: the site; it can be opened from disk")
