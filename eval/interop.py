"""How far embedkit's vectors are from those of the library that a model belongs to, for every family: one table.

    python eval/interop.py [--only WORD] [--quick] [--markdown docs/interop.md]

Models have the library's own architecture with random weights and small widths, written by the library itself as a
folder, which embedkit reads: open_clip's configurations (`open_clip.list_models()`), transformers' dual encoders and
vision models, and timm's families, which make the way back too (embedkit writes, timm reads). A row gives the largest
difference of a coordinate of unit vectors, texts and images apart, over captions and pictures that are easy to get
wrong (tests/helpers/dual.py). What embedkit does not read has the reason in its place.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import embedkit
from embedkit.errors import ModelError
from tests.helpers import dual, open_clip_shapes, vision_folders

BOUND = 1e-4
TIMM = (
    "vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "beit_base_patch16_224", "vit_base_patch16_siglip_224",
    "vit_base_patch16_clip_224", "swin_tiny_patch4_window7_224", "convnext_atto", "convnextv2_atto", "resnet18",
    "resnet50", "resnetv2_50", "regnety_002", "efficientnet_b0", "mixer_s32_224", "test_nfnet",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    library, name : str
        What was compared.
    texts, images : float or None
        Largest differences; None where the model has no such side, or was not read.
    reason : str
        Why it was not read.
    """

    library: str
    name: str
    texts: float | None = None
    images: float | None = None
    reason: str = ""

    @property
    def agrees(self) -> bool:
        """Whether what was compared is within `BOUND`."""
        return all(difference <= BOUND for difference in (self.texts, self.images) if difference is not None)

    def line(self) -> str:
        """The row of a Markdown table.

        >>> Row("timm", "resnet18", images=2e-7).line()
        '| timm | resnet18 |  | 2.0e-07 |  |'
        """
        numbers = ["" if value is None else f"{value:.1e}" for value in (self.texts, self.images)]
        return f"| {self.library} | {self.name} | {numbers[0]} | {numbers[1]} | {self.reason} |"


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference of a coordinate of unit vectors."""
    first, second = (
        v / np.linalg.norm(v, axis=1, keepdims=True) for v in (np.asarray(ours, float), np.asarray(theirs, float))
    )
    return float(np.abs(first - second).max())


def of_open_clip(name: str, folder: Path) -> Row:
    """A configuration of open_clip; its folder is read by embedkit."""
    with open_clip_shapes.small_trunks():
        model = open_clip_shapes.write(name, folder, own_trunk=True)
        texts, images = open_clip_shapes.vectors(model, folder)
        try:
            ours = embedkit.load(folder, device="cpu")
        except ModelError as error:
            return Row("open_clip", name, reason=error.what)
        return Row(
            "open_clip", name, difference(ours.encode(open_clip_shapes.TEXTS), texts),
            difference(ours.encode(dual.images(3)), images),
        )  # fmt: skip


def of_transformers(name: str, folder: Path) -> Row:
    """A dual encoder of transformers."""
    model = vision_folders.write_dual(name, folder)
    pictures = vision_folders.pictures(name)
    texts, images = vision_folders.dual_vectors(model, folder, dual.CAPTIONS, pictures)
    ours = embedkit.load(folder, device="cpu")
    return Row(
        "transformers", name, difference(ours.encode(dual.CAPTIONS), texts), difference(ours.encode(pictures), images)
    )


def of_vision(name: str, folder: Path) -> Row:
    """A vision model of transformers: the worst of its poolings."""
    from embedkit.config.model import ModelConfig
    from embedkit.factory import build

    model = vision_folders.write_tower(name, folder)
    pictures = vision_folders.pictures(name)
    worst = 0.0
    for pooling, vectors in vision_folders.tower_vectors(model, folder, pictures).items():
        image = {"name": str(folder), "pooling": pooling, "projection": "none"}
        text = {"kind": "static", "tokenizer": "builtin", "dim": 8}
        ours = build(ModelConfig(kind="dual", towers={"dim": vectors.shape[1], "text": text, "image": image}))
        worst = max(worst, difference(ours.encode(pictures), vectors))
    return Row("transformers", name, images=worst)


def of_timm(name: str, folder: Path) -> Row:
    """A model of timm that embedkit builds, writes, and timm reads."""
    import torch

    torch.manual_seed(0)
    with open_clip_shapes.small_trunks():
        return _there_and_back(name, folder)


def _there_and_back(name: str, folder: Path) -> Row:
    from embedkit.formats.timm.writer import read_vectors
    from embedkit.models.inputs.preprocess import Preprocess
    from embedkit.models.modules.dual import DualEncoder, Projection
    from embedkit.models.modules.image_towers import build_image_tower

    config = {"timm_model_name": name, "timm_proj": "linear", "timm_pool": "", "image_size": 224}
    tower = build_image_tower({"family": "open_clip", "dim": 16, "config": config})
    text = dual.text_tower("static")
    projections = Projection("linear", text.dim, 16), Projection("none", 16, 16)
    model = DualEncoder(text, tower, *projections, Preprocess(size=tower.size)).eval()
    embedkit.export(model, folder, "timm", samples=2)
    return Row("timm", name, images=difference(model.encode(dual.images(3)), read_vectors(folder, dual.images(3))))


def cases(quick: bool) -> Iterator[tuple[str, Callable[[str, Path], Row]]]:
    """Names with what compares them."""
    import open_clip

    yield from ((name, of_transformers) for name in vision_folders.DUALS)
    yield from ((name, of_vision) for name in vision_folders.TOWERS)
    yield from ((name, of_timm) for name in (("resnet18",) if quick else TIMM))
    some = ("RN50", "ViT-B-32", "coca_ViT-B-32", "ViT-B-16-SigLIP2", "EVA02-B-16", "nllb-clip-base")
    yield from ((name, of_open_clip) for name in (some if quick else open_clip.list_models()))


def table(rows: list[Row]) -> str:
    """The table and a line of counts."""
    from importlib.metadata import version

    packages = ("open_clip_torch", "transformers", "timm", "torch")
    compared = [row for row in rows if not row.reason]
    worst = max((max(row.texts or 0.0, row.images or 0.0) for row in compared), default=0.0)
    head = (
        f"{len(rows)} models: {len(compared)} compared, the largest difference {worst:.1e}; "
        f"{len(rows) - len(compared)} not read. "
        f"Versions: {', '.join(f'{name} {version(name)}' for name in packages)}.\n"
    )
    lines = ["| library | model | texts | images | not read, because |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([head, *lines, *(row.line() for row in rows)])


def run(only: str = "", quick: bool = False) -> list[Row]:
    """The rows, those with `only` in their name."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, (name, compare) in enumerate(cases(quick)):
            if only.lower() in name.lower():
                rows.append(compare(name, Path(place) / str(number)))
                print(rows[-1].line(), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Print the table, and put it into a page below its first line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", default="", help="models with this word in their name")
    parser.add_argument("--quick", action="store_true", help="a few of open_clip and timm")
    parser.add_argument("--markdown", type=Path, help="the page whose table this is")
    settings = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = run(settings.only, settings.quick)
    print(table(rows))
    if settings.markdown:
        front = settings.markdown.read_text(encoding="utf-8").partition(MARK)[0]
        settings.markdown.write_text(f"{front}{MARK}\n\n{table(rows)}\n", encoding="utf-8")
    sys.exit(0 if all(row.agrees for row in rows) else 1)


MARK = "<!-- the table of `python eval/interop.py --markdown docs/interop.md` -->"

if __name__ == "__main__":
    main()
