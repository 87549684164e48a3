"""Settings that say different things of one model: its own file, the files of other libraries beside it, its recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedkit.doctor.finding import Finding
from embedkit.errors import ModelError

_MODEL = ("pooling", "max_length", "normalize", "prompts", "default_prompt")


def differences(one: Mapping[str, Any], other: Mapping[str, Any], who: str, where: str) -> Iterator[Finding]:
    """A finding for each setting that both sides give, and give differently.

    Parameters
    ----------
    one, other : mapping
        Settings of the model, and of `who` uses or describes it.
    where : str
        How the model is called.

    Examples
    --------
    >>> (finding,) = differences({"pooling": "mean"}, {"pooling": "cls"}, "the recipe", "embedkit.json")
    >>> finding.what, finding.evidence
    ('the recipe has another pooling than the model', "'cls', embedkit.json has 'mean'")
    """
    for name in _MODEL:
        mine, theirs = one.get(name), other.get(name)
        if mine in (None, {}) or theirs in (None, {}) or mine == theirs:
            continue
        yield Finding(
            f"{who} has another {name.replace('_', ' ')} than the model",
            f"{theirs!r}, {where} has {mine!r}",
            "use what the model was trained with, or train it for the other",
        )


def examine_folder(folder: Path, model: Any) -> Iterator[Finding]:
    """Findings where the files of a model folder contradict each other.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> config = load_recipe("quickstart").model
    >>> _ = build(config, seed=1).save("model")
    >>> [finding.what for finding in examine_folder(Path("model"), build(config, seed=2))]
    ['the folder has changed since it was written']
    """
    from embedkit.formats.folder import OWN_FILE, read_json

    if (folder / OWN_FILE).is_file():
        own = read_json(folder / OWN_FILE)
        yield from _changed(own, model)
        try:
            yield from differences(own.get("spec") or {}, beside(folder), "modules.json and its files", OWN_FILE)
        except ModelError as error:
            yield Finding(
                "the files for sentence-transformers contradict each other", error.line(), "save the model again"
            )
        recipe = (own.get("recipe") or {}).get("model") or {}
        recipe_settings = {name: value for name, value in recipe.items() if name != "max_length"}
        yield from differences(own.get("spec") or {}, recipe_settings, "the recipe in the folder", OWN_FILE)
    yield from _activations(folder)
    yield from _preprocessing(folder)


def _changed(own: Mapping[str, Any], model: Any) -> Iterator[Finding]:
    now = model.hash()
    if own.get("hash") not in (None, now):
        yield Finding(
            "the folder has changed since it was written", f"hash {own['hash']} then, {now} now",
            "its scores belong to another model: take the folder as it was, or save it again",
        )  # fmt: skip


def beside(folder: Path) -> dict[str, Any]:
    """The settings that the files of sentence-transformers in an embedkit folder give; empty when there are none.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> _ = build(load_recipe("quickstart").model).save("model")
    >>> beside(Path("model"))
    {'normalize': True, 'pooling': 'mean', 'max_length': 32, 'default_prompt': None}
    """
    from embedkit.formats.folder import read_json
    from embedkit.formats.sentence_transformers.reader import plan_of_modules

    listing = folder / "modules.json"
    if not listing.is_file():
        return {}
    classes = {str(entry.get("type", "")).rpartition(".")[2] for entry in read_json(listing)}
    if not {"Pooling", "StaticEmbedding"} & classes:
        return {}  # a model that sentence-transformers cannot express
    spec = plan_of_modules(folder).spec
    return {key: spec.get(key) for key in ("normalize", "pooling", "max_length", "default_prompt")}


def _activations(folder: Path) -> Iterator[Finding]:
    """OpenAI's CLIP weights need a sigmoid approximation of GELU; with plain GELU the vectors are other ones."""
    from embedkit.formats.folder import read_json

    clip, plain = folder / "open_clip_config.json", folder / "config.json"
    if not (clip.is_file() and plain.is_file()):
        return
    model = read_json(clip).get("model_cfg", {})
    quick = bool(model.get("quick_gelu", False))
    config = read_json(plain)
    for tower in ("text_config", "vision_config"):
        act = (config.get(tower) or {}).get("hidden_act")
        if act in ("quick_gelu", "gelu") and (act == "quick_gelu") != quick:
            yield Finding(
                "two files name different activations",
                f"config.json {tower}: {act}, open_clip_config.json: {'quick_gelu' if quick else 'gelu'}",
                "OpenAI's weights need quick_gelu; set both files to what the weights were trained with",
            )
            return


def _preprocessing(folder: Path) -> Iterator[Finding]:
    """Normalisation and size of images: those of the kind of model, the same in all files."""
    from embedkit.formats.folder import read_json
    from embedkit.models.inputs.preprocess import CLIP_MEAN

    settings: dict[str, tuple[list[float] | None, int | None]] = {}
    if (folder / "preprocessor_config.json").is_file():
        content = read_json(folder / "preprocessor_config.json")
        size = content.get("crop_size") or content.get("size")
        settings["preprocessor_config.json"] = (content.get("image_mean"), _edge(size))
    if (folder / "open_clip_config.json").is_file():
        content = read_json(folder / "open_clip_config.json")
        size = (content.get("model_cfg") or {}).get("vision_cfg", {}).get("image_size")
        settings["open_clip_config.json"] = ((content.get("preprocess_cfg") or {}).get("mean"), _edge(size))
    kind, size = None, None
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        kind, size = config.get("model_type"), (config.get("vision_config") or {}).get("image_size")
    usual = {"clip": list(CLIP_MEAN), "siglip": [0.5, 0.5, 0.5]}.get(str(kind))
    means = {name: mean for name, (mean, _) in settings.items() if mean}
    if usual is not None:
        means["usual for " + str(kind)] = usual
    sizes = {name: edge for name, (_, edge) in settings.items() if edge} | ({"config.json": size} if size else {})
    values: tuple[tuple[str, dict[str, Any]], ...] = (("mean", means), ("size", sizes))
    for what, figures in values:
        first = next(iter(figures.values()), None)
        if any(not _near(value, first) for value in figures.values()):
            yield Finding(
                f"images are prepared with another {what} than the model was made for",
                "; ".join(f"{name}: {value}" for name, value in figures.items()),
                "give all files the values that the weights were trained with",
            )


def _edge(size: Any) -> int | None:
    if isinstance(size, dict):
        return size.get("height") or size.get("shortest_edge")
    return size if isinstance(size, int) else None


def _near(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(abs(x - y) < 1e-3 for x, y in zip(a, b, strict=True))
    return bool(a == b)
