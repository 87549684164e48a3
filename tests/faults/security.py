"""Files that want to run code, read or write elsewhere, or call home: refused with a line, and nothing has run."""

from __future__ import annotations
