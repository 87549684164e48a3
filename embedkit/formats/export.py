"""Models in the formats of other libraries: `export` writes a folder, `embedkit.load` reads one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedkit.errors import ModelError, nearest
from embedkit.formats.folder import write_folder, write_json
from embedkit.formats.image_part import part_of
from embedkit.formats.loading import load
from embedkit.formats.registry import writers

if TYPE_CHECKING:
    from embedkit.models.base import Model

REPORT = "embedkit_export.json"


def export(
    model: Model | str | Path, path: str | Path, format: str = "sentence-transformers", *, overwrite: bool = False,
    samples: int = 100, tower: str | None = None,
) -> Path:  # fmt: skip
    """The path of a new folder with `model` in the format of another library.

    Parameters
    ----------
    model : Model, str or Path
        A loaded model, or what `embedkit.load` takes.
    path : str or Path
        The folder; an earlier export is replaced, anything else only with `overwrite`.
    format : str
        "sentence-transformers": vectors equal to ours. "transformers": the encoder and its tokenizer (a tanh head on
        the first token becomes the pooler). "onnx": one graph from token ids and mask to the final vector, checked
        against the model. "sequence-classifier": a kept head with its encoder, for transformers'
        ``AutoModelForSequenceClassification``.
        A dual encoder is written in the first three too, and as "open_clip" or "clip": one folder for open_clip,
        transformers and sentence-transformers.
        Its image tower alone goes into "timm" and "torchvision", and with ``tower="image"`` into "transformers" and
        "onnx".
    samples : int
        Images and texts that the parity report of a dual encoder or a classifier compares, made by embedkit itself.
    tower : str, optional
        "image" for the image tower of a dual encoder without the texts; needed where the format holds both. The name of
        a tower of a model with named ones.

    Raises
    ------
    ModelError
        When the format is unknown, or cannot express this model; the reason is named.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> folder = embedkit.export(StaticEncoder(tokenizer(), dim=4), "words", format="sentence-transformers")
    >>> sorted(path.name for path in folder.glob("*.json"))
    ['config_sentence_transformers.json', 'embedkit_export.json', 'modules.json', 'tokenizer.json']
    """
    check_format(format)
    whole = load(model, device="cpu") if isinstance(model, str | Path) else model
    source = part_of(whole, tower, writers[format].kinds)
    formats = {name: writer for name, writer in writers.items() if writer.can_write(source)}
    if format not in formats:
        raise ModelError(f"unknown export format {format!r} for a {source.kind} model", remedy=nearest(format, formats))

    def write(folder: Path) -> None:
        report = formats[format].write(source, folder, samples)
        write_json(folder / REPORT, {"format": format, "hash": source.hash(), **report})

    return write_folder(path, write, ours=REPORT, overwrite=overwrite)


def check_format(format: str) -> None:
    """Refuse, before a model is loaded, an unknown format, or one whose package is not installed.

    Raises
    ------
    ModelError
        No format has that name; the nearest is offered.
    MissingExtraError
        The package, and how to install it.

    Examples
    --------
    >>> check_format("sentence_transformer")
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: unknown export format 'sentence_transformer'; did you mean 'sentence-transformers'?
    """
    if format not in writers:
        raise ModelError(f"unknown export format {format!r}", remedy=nearest(format, writers))
    writers[format].check()
