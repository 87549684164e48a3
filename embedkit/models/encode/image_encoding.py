"""Images to vectors: decoded on several threads, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedkit.data.images.decoding import usual_threads
from embedkit.errors import DataError
from embedkit.models.encode.encoding import first_not_finite, kept_dim, not_finite, reporter
from embedkit.models.execution.fused import for_encoding
from embedkit.models.inputs.images import ImageInputs

if TYPE_CHECKING:
    from embedkit.models.encode.arguments import EncodeSettings
    from embedkit.models.modules.dual import DualEncoder

GROUP = 16  # images that one task decodes
BATCH_PATCHES = {"cpu": 8_192, "mps": 16_384, "cuda": 131_072}


def encode_images(model: DualEncoder, images: Sequence[Any], settings: EncodeSettings) -> np.ndarray:
    """Vectors of images, float32 (N, D); see `DualEncoder.encode`.

    The next batch is decoded while one is computed; two batches are in memory at most.

    Raises
    ------
    DataError
        An image cannot be read; its index is named.
    NonFiniteError
        A vector has NaN or infinity; its index is named.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> from embedkit.models.encode.arguments import EncodeSettings
    >>> vit = {"model_type": "vit", "image_size": 32, "hidden_size": 12, "num_hidden_layers": 1}
    >>> text = {"kind": "static", "tokenizer": "builtin", "dim": 8}
    >>> model = build(ModelConfig(kind="dual", towers={"dim": 4, "text": text, "image": {"config": vit}}))
    >>> encode_images(model, [np.zeros((40, 60, 3), dtype=np.uint8)], EncodeSettings()).shape
    (1, 4)
    """
    dim = kept_dim(model, settings.truncate_dim)
    unit = model.normalize if settings.normalize is None else settings.normalize
    budget = settings.batch_tokens or BATCH_PATCHES.get(model.device.type, BATCH_PATCHES["cuda"])
    step = min(max(1, budget // model.image.patches), settings.batch_size or budget)
    starts = range(0, len(images), step)
    vectors = np.empty((len(images), dim), dtype=np.float32)
    was_training = model.training
    model.eval()
    try:
        with (
            reporter(settings.progress, len(images), "images") as show,
            ThreadPoolExecutor(usual_threads()) as pool,
            torch.inference_mode(),
        ):
            quick = for_encoding(model)
            coming = _submit(pool, model, images, range(min(step, len(images))))
            for start in starts:
                parts = [inputs for part in coming for inputs in part.result()]
                after = start + step
                coming = _submit(pool, model, images, range(after, min(after + step, len(images))))
                out = _run(quick, parts, model.device)[:, :dim].float()
                out = torch.nn.functional.normalize(out, dim=-1) if unit else out
                vectors[start : start + step] = out.cpu().numpy()
                bad = first_not_finite(vectors[start : start + step])
                if bad is not None:
                    raise not_finite(start + bad)
                show(len(out))
    finally:
        model.train(was_training)
    return vectors


def _run(model: Any, parts: list[ImageInputs], device: Any) -> torch.Tensor:
    """Vectors of images in the order of `parts`, each shape in a pass of its own."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, part in enumerate(parts):
        places.setdefault(part.size, []).append(place)
    if len(places) == 1:
        return model(ImageInputs.concat(parts).to(device))  # type: ignore[no-any-return]
    outputs: list[torch.Tensor] = [torch.empty(0)] * len(parts)
    for own in places.values():
        vectors = model(ImageInputs.concat([parts[place] for place in own]).to(device))
        sizes = [len(parts[place]) for place in own]
        for place, one in zip(own, vectors.split(sizes), strict=True):
            outputs[place] = one
    return torch.cat(outputs)


def _submit(pool: ThreadPoolExecutor, model: DualEncoder, images: Sequence[Any], places: range) -> list[Future[Any]]:
    """Have the images at `places` prepared, a few at a time."""
    firsts = range(places.start, places.stop, GROUP)
    return [pool.submit(_prepared, model, images[s : min(s + GROUP, places.stop)], s) for s in firsts]


def _prepared(model: DualEncoder, images: Sequence[Any], first: int) -> Any:
    try:
        return model.prepare_shapes(images)
    except DataError:
        for place, image in enumerate(images):
            try:
                model.prepare_shapes([image])
            except DataError as error:
                where = f"inputs[{first + place}]" + (f" ({error.where})" if error.where else "")
                raise DataError(error.what, where=where, remedy=error.remedy) from None
        raise
