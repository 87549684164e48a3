"""Captions with image features: the second source of the recipes mcse-flickr and mcse-coco.

    python eval/mcse_features.py IMAGES OUT.parquet [--image image] [--caption caption] [--where split=train] [--seed 0]

IMAGES is any source of images with captions that embedkit reads: parquet or csv, tar shards, a folder, a hub id. Writes
one random caption of each image (column caption) and the 2048 numbers of torchvision's ResNet-50 without its last layer
(column features, float32), weights IMAGENET1K_V1: Resize 256, CenterCrop 224, ImageNet normalisation, as MCSE did (Zhou
et al. 2022, section 4). The weights are downloaded unless ``--weights FILE`` gives them; ``--weights random`` is for
trials. Images that cannot be decoded are left out and counted.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH = 64


def pictures(options: argparse.Namespace, left_out: list[str]) -> Iterator[tuple[Any, str]]:
    """Decoded images and one caption each."""
    from embedkit.data import read_rows
    from embedkit.data.images.paths import image_path
    from embedkit.data.images.pictures import load_picture, to_rgb
    from embedkit.data.schema.parsers import BadRow, read_image

    draw = random.Random(options.seed)
    source = Path(options.images)
    home = source if source.is_dir() else source.parent  # of paths in the table
    column, _, value = options.where.partition("=")
    for number, row in enumerate(read_rows(options.images), 1):
        if column and str(row.get(column)) != value:
            continue
        try:
            cell, captions = row[options.image], row[options.caption]
        except KeyError as error:
            raise SystemExit(f"no column {error}; there are {', '.join(row)}") from None
        caption = captions if isinstance(captions, str) else draw.choice(list(captions))
        try:
            image = read_image(cell)
            image = image_path(image, home) if isinstance(image, str) else image
            yield to_rgb(load_picture(image).image), caption
        except BadRow as bad:
            left_out.append(f"row {number}: {bad}")


def network(weights: str | None) -> Any:
    """ResNet-50 that returns what its last layer would read, in evaluation mode."""
    import torch
    import torchvision

    if weights is None:
        model = torchvision.models.resnet50(weights=torchvision.models.ResNet50_Weights.IMAGENET1K_V1)
    else:
        model = torchvision.models.resnet50(weights=None)
        if weights != "random":
            model.load_state_dict(torch.load(weights, weights_only=True))
    model.fc = torch.nn.Identity()
    return model.eval()


def main() -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images")
    parser.add_argument("out", type=Path)
    parser.add_argument("--image", default="image", help="column of the images")
    parser.add_argument("--caption", default="caption", help="column of the caption, or of a list of captions")
    parser.add_argument("--where", default="", help="COLUMN=VALUE that rows must have")
    parser.add_argument("--seed", type=int, default=0, help="of the choice among several captions")
    parser.add_argument("--weights", help="state dict of torchvision's ResNet-50, or random; downloaded when not given")
    options = parser.parse_args()

    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from torchvision.transforms import v2

    model, left_out, count = network(options.weights), [], 0
    look = v2.Compose(
        [v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
         v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )  # fmt: skip
    unfinished = options.out.with_suffix(".unfinished")
    schema = pa.schema({"caption": pa.string(), "features": pa.list_(pa.float32())})
    found = pictures(options, left_out)
    with pq.ParquetWriter(unfinished, schema) as writer, torch.inference_mode():
        while batch := list(itertools.islice(found, BATCH)):
            features = model(torch.stack([look(image) for image, _ in batch])).numpy()
            writer.write_table(pa.table([[text for _, text in batch], list(features)], schema=schema))
            count += len(batch)
    os.replace(unfinished, options.out)
    print(f"{options.out}: {count:,} rows, {len(left_out):,} images left out")
    for line in left_out[:10]:
        print(f"left out: {line}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
