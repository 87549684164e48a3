"""Section (b) of gpu.py: steps of CLIP at large batches through the gradient cache and the tiles of the loss.

Pixels (random, uint8) and token ids lie in the device's memory before anything is timed; a step is normalisation,
forward passes, loss, backward passes and AdamW. The towers are transformers' own, so that nothing but the base
dependencies is needed. Beside it open_clip's `train_one_epoch` with the same weights, where it is installed, by its own
accumulation (`accum_freq`) with micro-batches of the same size. MFU counts what the batch needs (three forward
passes), not what chunks compute again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gpu_common import (
    ClipShape,
    Section,
    Size,
    autocast,
    encoder_operations,
    forget_peak,
    free,
    free_bytes,
    half_type,
    matrix_rate,
    missing,
    peak_mib,
    precision,
    timed,
)
from torch import Tensor

from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View

LENGTH = 77


@dataclass(frozen=True)
class Item:
    """The place of an input in what is ready; its key is that of no other."""

    place: int
    tower: str

    @property
    def key(self) -> bytes:
        """Bytes that stand for the input."""
        return f"{self.tower} {self.place}".encode()


class Ready(Method):
    """Pixels and token ids that are there already."""

    contract = Contract(frozenset({"image", "positive"}))

    def __init__(self, images: Any, captions: Any) -> None:
        self.inputs = {"anchor": images, "positive": captions}

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        """One view of each tower."""
        places = list(range(len(rows)))
        return {
            "anchor": View([row["image"] for row in rows], places, tower="image"),
            "positive": View([row["positive"] for row in rows], places),
        }

    def prepare(self, model: Any, name: str, view: View) -> Any:
        """The inputs of the view's places; those of all places as they lie there, without a copy."""
        places = [item.place for item in view.inputs]
        ready = self.inputs[name]
        return ready if places == list(range(len(ready))) else ready.select(places)


def dual_encoder(shape: ClipShape) -> Any:
    """A dual encoder with random weights, of transformers' towers."""
    from embedkit.config.model import ModelConfig
    from embedkit.factory import build

    image = {
        "model_type": "clip_vision_model", "hidden_size": shape.width, "intermediate_size": 4 * shape.width,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "image_size": shape.image_size,
        "patch_size": shape.patch, "hidden_act": "gelu",
    }  # fmt: skip
    text = {
        "model_type": "clip_text_model", "hidden_size": shape.text_width, "intermediate_size": 4 * shape.text_width,
        "num_hidden_layers": shape.text_layers, "num_attention_heads": shape.text_heads, "hidden_act": "gelu",
        "max_position_embeddings": LENGTH, "vocab_size": shape.vocabulary, "bos_token_id": shape.vocabulary - 2,
        "eos_token_id": shape.vocabulary - 1, "pad_token_id": shape.vocabulary - 1,
    }  # fmt: skip
    towers = {
        "dim": shape.dim, "image": {"config": image, "pooling": "pooler"},
        "text": {"config": text, "tokenizer": "builtin", "max_length": LENGTH},
    }  # fmt: skip
    return build(ModelConfig(kind="dual", towers=towers), 0)


def captions(shape: ClipShape, count: int) -> Any:
    """`Inputs` of random captions of 8 to 24 tokens, between the begin and end tokens."""
    from embedkit.models.inputs.inputs import Inputs

    random = np.random.default_rng(0)
    lengths = random.integers(8, 25, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = random.integers(0, shape.vocabulary - 2, int(offsets[-1]))
    ids[offsets[:-1]], ids[offsets[1:] - 1] = shape.vocabulary - 2, shape.vocabulary - 1
    return Inputs(torch.from_numpy(ids), offsets)


def images(model: Any, shape: ClipShape, count: int, device: torch.device) -> Any:
    """`ImageInputs` of random pixels on the device."""
    from embedkit.models.inputs.images import ImageInputs

    side = shape.image_size
    draw = torch.Generator(device).manual_seed(0)
    pixels = torch.empty(count, 3, side, side, dtype=torch.uint8, device=device)
    return ImageInputs(pixels.random_(0, 256, generator=draw), model.image.patches)


def operations(shape: ClipShape, texts: Any) -> float:
    """Matrix-product operations of a forward pass over as many images as there are captions."""
    count, costs = len(texts), texts.costs.astype(np.int64)
    tokens = shape.tokens
    image = encoder_operations(shape.width, 4 * shape.width, shape.layers, count * tokens, count * tokens**2)
    patches = 2.0 * 3 * shape.patch**2 * shape.width * (tokens - 1) * count
    width, layers = shape.text_width, shape.text_layers
    text = encoder_operations(width, 4 * width, layers, int(costs.sum()), int((costs**2).sum()))
    heads = 2.0 * shape.dim * (shape.width + shape.text_width) * count
    return image + patches + text + heads + 2.0 * count * count * shape.dim


def chunk_size(size: Size, shape: ClipShape, device: torch.device) -> int:
    """Images of a chunk: a power of two whose activations, at about 34 bytes an element and layer, take a quarter of
    the memory that is free."""
    each = 34 * shape.layers * shape.tokens * shape.width * (1 if precision(device) == "bf16" else 2)
    return min(size.clip_chunk, 2 ** int(math.log2(max(1.0, 0.25 * free_bytes(device) / each))))


class Ours:
    """embedkit's step over a prepared batch."""

    def __init__(self, model: Any, device: torch.device, chunk: int) -> None:
        from embedkit import objectives
        from embedkit.config.recipe import TrainConfig
        from embedkit.training.loop.cache import Chunking
        from embedkit.training.loop.step import Bundle, TrainStep
        from embedkit.training.optim.optimizer import Optimiser, assign_groups
        from embedkit.training.parallel.distributed import World

        objective = objectives.build("clip", dim=model.dim)
        self.model, self.device = model, device
        self.bundle = Bundle(model, torch.nn.ModuleDict(), objective).to(device).train()
        chunking = Chunking({"image": chunk, "text": 4 * chunk}, keep=1)
        method = Ready(None, None)
        self.step = TrainStep(self.bundle, method, World(device), chunking, autocast=autocast(device))
        config = TrainConfig(max_steps=1, lr=5e-4, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6, max_grad_norm=None)
        undecayed = frozenset(f"objective.{name}" for name in objective.no_weight_decay)
        self.optimiser = Optimiser(self.bundle, assign_groups(self.bundle, config, undecayed), config)

    def batch(self, pixels: Any, texts: Any) -> Any:
        """A step's batch of inputs that are ready."""
        from embedkit.data import RowBatch
        from embedkit.training.loop.batches import prepare

        count = len(texts)
        method = Ready(pixels, texts)
        given = [{"image": Item(n, "image"), "positive": Item(n, "text")} for n in range(count)]
        return prepare(RowBatch(given, list(range(count)), count, 0, 0), method, self.model, seed=0, epoch=0)

    def run(self, batch: Any) -> float:
        """One step; its loss."""
        loss = self.step.gradients(batch).loss
        self.optimiser.step(1.0)
        self.step.after_update()
        return float(loss)


class OpenClip:
    """open_clip_train's own epoch over micro-batches that make one step together."""

    def __init__(self, model: Any, shape: ClipShape, device: torch.device) -> None:
        from open_clip.loss import ClipLoss
        from open_clip.model import CLIP

        from embedkit.formats.open_clip.writer import text_parts, vision_parts

        vision, visual, _ = vision_parts(model)
        text = {
            "context_length": LENGTH, "vocab_size": shape.vocabulary, "width": shape.text_width,
            "heads": shape.text_heads, "layers": shape.text_layers,
        }  # fmt: skip
        self.model = CLIP(shape.dim, vision, text, output_dict=True)
        state = {f"visual.{name}": tensor for name, tensor in visual.items()} | text_parts(model, model.text)
        left = self.model.load_state_dict({n: t.detach().cpu().clone() for n, t in state.items()}, strict=False)
        if left.unexpected_keys or set(left.missing_keys) - {"logit_scale", "attn_mask"}:
            raise RuntimeError(f"other weights than open_clip's: {left}")
        self.model.to(device)
        self.loss, self.device, self.pixels = ClipLoss(), device, model.pixels
        decayed = [p for n, p in self.model.named_parameters() if p.ndim >= 2]
        plain = [p for n, p in self.model.named_parameters() if p.ndim < 2]
        groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}]
        self.adamw = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)

    def padded(self, texts: Any) -> Tensor:
        """Token ids (N, 77), with zeros behind the end token."""
        return texts.padded(LENGTH, 0).ids.view(len(texts), LENGTH).to(self.device)

    def micro(self, pixels: Any, tokens: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images and token ids, `chunk` at a time."""
        for start in range(0, len(tokens), chunk):
            part = pixels.select(slice(start, min(start + chunk, len(tokens))))
            yield self.pixels(part).detach(), tokens[start : start + chunk]

    def first_loss(self, pixels: Any, tokens: Tensor, chunk: int) -> float:
        """The loss of a batch, without gradients."""
        found: dict[str, list[Tensor]] = {"image_features": [], "text_features": []}
        with torch.no_grad(), autocast(self.device)():
            for part in self.micro(pixels, tokens, chunk):
                output = self.model(*part)
                for name, kept in found.items():
                    kept.append(output[name].float())
            features = {name: torch.cat(parts) for name, parts in found.items()}
            return float(self.loss(**features, logit_scale=output["logit_scale"]))

    def run(self, pixels: Any, tokens: Tensor, chunk: int) -> None:
        """One step."""
        from open_clip_train.train import train_one_epoch

        count = len(tokens)
        parts = -(-count // chunk)

        class Loader:
            num_batches, num_samples = parts, count

            def __iter__(loader) -> Iterator[tuple[Tensor, Tensor]]:
                return self.micro(pixels, tokens, chunk)

        args = SimpleNamespace(
            device=str(self.device), precision="amp_bf16" if precision(self.device) == "bf16" else "fp32",
            distill=False, accum_freq=parts, skip_scheduler=True, grad_clip_norm=None, horovod=False, rank=0,
            local_rank=0, world_size=1, log_every_n_steps=10**9, batch_size=min(count, chunk), wandb=False,
            local_loss=False, gather_with_grad=False,
        )  # fmt: skip
        data = {"train": SimpleNamespace(dataloader=Loader(), set_epoch=lambda epoch: None)}
        train_one_epoch(self.model, data, self.loss, 0, self.adamw, None, None, None, args)


class Contest:
    """embedkit and open_clip on one dual encoder, at one batch after the other."""

    def __init__(self, size: Size, device: torch.device, section: Section, shape: ClipShape, until: float) -> None:
        self.size, self.device, self.section, self.shape, self.until = size, device, section, shape, until
        self.model = dual_encoder(shape)
        self.chunk = chunk_size(size, shape, device)
        self.ours = Ours(self.model, device, self.chunk)
        self.theirs: OpenClip | None = None
        reason = missing("open_clip", "open_clip")
        if reason is not None:
            section.skip("open_clip", reason)
        else:
            with section.attempt(f"{shape.name}, open_clip", peer=True):
                self.theirs = OpenClip(self.model, shape, device)
        self.rate = matrix_rate(size, device, half_type(device))
        self.per_image = {"embedkit": 0.0, "open_clip": 0.0}
        self.first_loss: float | None = None

    def order(self) -> list[tuple[int, str]]:
        """Both at the smallest batch, then embedkit up to the largest, then open_clip."""
        smallest, *others = self.size.clip_batches
        ways = ["embedkit"] if self.theirs is None else ["embedkit", "open_clip"]
        return [(smallest, way) for way in ways] + [(batch, way) for way in ways for batch in others]

    def fits(self, steps: float, library: str, batch: int) -> bool:
        """Whether there is time for so many steps, by what smaller batches took."""
        return self.section.budget.spent + steps * self.per_image[library] * batch <= self.until

    def run(self, batch: int, library: str) -> None:
        """The row of a library at a batch."""
        what = f"{self.shape.name}, batch {batch}, {library}"
        if not self.fits(1.1, library, batch):
            seconds = self.per_image[library] * batch
            self.section.skip(what, f"a step would take about {seconds:.0f} s: not enough of the budget is left")
            return
        with self.section.attempt(what, peer=library != "embedkit"):
            texts = captions(self.shape, batch)
            pixels = images(self.model, self.shape, batch, self.device)
            if library == "embedkit":
                prepared = self.ours.batch(pixels, texts)
                self.measure(library, texts, lambda: self.ours.run(prepared))
                return
            theirs = self.theirs
            assert theirs is not None
            tokens = theirs.padded(texts)
            if batch == self.size.clip_batches[0] and self.first_loss is not None:
                apart = abs(self.first_loss - theirs.first_loss(pixels, tokens, self.chunk))
                what = "difference of the first loss from open_clip's"
                self.section.put(self.shape.name, "loss", what=what, model=self.shape.name, difference=apart)
            self.measure(library, texts, lambda: theirs.run(pixels, tokens, self.chunk))

    def measure(self, library: str, texts: Any, step: Callable[[], Any]) -> None:
        """Time steps, behind one that is not timed where there is time for it, and write the row."""
        batch, device = len(texts), self.device
        if self.fits(1.1 + self.size.clip_steps, library, batch):
            value = step()
            if library == "embedkit" and self.first_loss is None:
                self.first_loss = value
        forget_peak(device)
        taken: list[float] = []
        while len(taken) < self.size.clip_steps:
            self.section.budget.check()
            if taken and self.section.budget.spent + taken[-1] > self.until:
                break
            taken.append(timed(device, step))
        seconds = statistics.median(taken)
        self.per_image[library] = seconds / batch
        self.section.put(
            self.shape.name, library, batch, model=self.shape.name, library=library, batch=batch, chunk=self.chunk,
            steps=len(taken), precision=precision(device), seconds_per_step=seconds, images_per_s=batch / seconds,
            mfu=3 * operations(self.shape, texts) / seconds / self.rate, memory_mib=peak_mib(device),
        )  # fmt: skip


def clip(size: Size, device: torch.device, section: Section) -> None:
    """Section (b); each dual encoder has its share of the budget."""
    for number, shape in enumerate(size.clip, start=1):
        contest = Contest(size, device, section, shape, section.budget.seconds * number / len(size.clip))
        for batch, library in contest.order():
            contest.run(batch, library)
            section.budget.check()
        del contest
        free()
