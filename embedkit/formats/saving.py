"""Saving models: one folder that embedkit, sentence-transformers and transformers read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.formats.embedkit.folder import write_own
from embedkit.formats.folder import OWN_FILE, write_folder
from embedkit.formats.sentence_transformers.writer import notes_for_readers

if TYPE_CHECKING:
    from embedkit.models.base import Model

_log = logging.getLogger(__name__)


def save(model: Model, path: str | Path, *, recipe: dict[str, Any] | None = None, overwrite: bool = False) -> Path:
    """The path of a saved model: a folder that sentence-transformers reads too where it can express the model.

    What sentence-transformers cannot say (a train-only head, templates, mask and first-last pooling, n-grams) is in
    ``embedkit.json``; where the vectors would differ there, ``modules.json`` names a class that it refuses to load,
    so that nobody gets other vectors silently. The folder is written beside, synced to the disk and renamed. An
    embedkit folder at `path` is replaced; anything else only with `overwrite`.

    Raises
    ------
    ModelError
        When `path` holds something else.
    DiskError
        When it cannot be written; what was there is as it was.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> folder = embedkit.save(StaticEncoder(tokenizer(), dim=4), "words")
    >>> sorted(path.name for path in folder.glob("*.*"))
    ['config_sentence_transformers.json', 'embedkit.json', 'model.safetensors', 'modules.json', 'tokenizer.json']
    """
    target = write_folder(path, lambda folder: write_own(model, folder, recipe), ours=OWN_FILE, overwrite=overwrite)
    for note in notes_for_readers(model):
        _log.warning("%s: %s", target, note)
    return target
