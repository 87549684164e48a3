"""A plain PyTorch loop of lightly's parts around an embedkit tower, for `images.py`: SimCLR, BYOL, DINO, two views."""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def start_of(options: Any, recipe: Callable[..., Any], seed: int) -> Any:
    """The model that a run of embedkit starts with."""
    from embedkit.factory import build

    return build(recipe("simclr", seed, options).model, seed)


class Tower(nn.Module):
    """The image side of a dual encoder on pixels (N, 3, H, W) from 0 to 1."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Vectors (N, D)."""
        from embedkit.models.inputs.images import ImageInputs

        return self.model(ImageInputs(pixels, 1))  # type: ignore[no-any-return]


def loader(options: Any, seed: int) -> Any:
    """Two views of each picture, with embedkit's transform `small` in torchvision's words."""
    import torchvision.transforms as t
    from images import SIZE, pictures
    from lightly.transforms.multi_view_transform import MultiViewTransform
    from PIL import Image

    one = t.Compose([
        t.RandomResizedCrop(SIZE, scale=(0.2, 1.0), interpolation=t.InterpolationMode.BICUBIC),
        t.RandomHorizontalFlip(), t.RandomApply([t.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), t.RandomGrayscale(0.2),
        t.ToTensor(),
    ])  # fmt: skip
    views, files = MultiViewTransform([one, one]), pictures(options, "train", options.rows)[0]

    class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, place: int) -> list[Tensor]:
            return views(Image.open(io.BytesIO(files[place])).convert("RGB"))  # type: ignore[no-any-return]

    generator = torch.Generator().manual_seed(seed)
    return torch.utils.data.DataLoader(
        Pictures(), options.batch, shuffle=True, drop_last=True, num_workers=options.workers, generator=generator,
        persistent_workers=options.workers > 0,
    )  # fmt: skip


def heads(name: str, width: int) -> nn.ModuleDict:
    """lightly's heads in the sizes of `images.py`."""
    from images import HIDDEN, OUT, PROTOTYPES
    from lightly.models import modules as m

    if name == "simclr":
        return nn.ModuleDict({"head": m.SimCLRProjectionHead(width, HIDDEN, OUT)})
    if name == "byol":
        return nn.ModuleDict(
            {"head": m.BYOLProjectionHead(width, HIDDEN, OUT), "predictor": m.BYOLPredictionHead(OUT, HIDDEN, OUT)}
        )
    return nn.ModuleDict({"head": m.DINOProjectionHead(width, HIDDEN, OUT, PROTOTYPES)})


def train_lightly(
    model: Any, name: str, seed: int, options: Any, marks: list[float] | None = None
) -> tuple[Any, float]:  # fmt: skip
    """The trained model, and processor seconds of this process (loader processes are not in them)."""
    from images import DECAY
    from lightly.loss import DINOLoss, NegativeCosineSimilarity, NTXentLoss
    from lightly.models.utils import update_momentum

    torch.manual_seed(seed)
    tower = Tower(model.train())
    parts = heads(name, model.dim)
    slow_head = heads(name, model.dim)["head"]  # a copy of DINO's head is refused by its weight normalisation
    slow_head.load_state_dict(parts["head"].state_dict())
    slow = nn.ModuleDict({"tower": copy.deepcopy(tower), "head": slow_head}).requires_grad_(False)
    ntxent, cosine = NTXentLoss(temperature=0.1), NegativeCosineSimilarity()
    dino = (
        DINOLoss(output_dim=parts["head"].last_layer.out_features, warmup_teacher_temp_epochs=0)
        if name == "dino"
        else None
    )
    wanted = [p for p in (*tower.model.image.parameters(), *tower.model.projections["image"].parameters(),
                          *parts.parameters()) if p.requires_grad]  # fmt: skip
    optimiser = torch.optim.AdamW(wanted, lr=options.lr, weight_decay=0.05)
    data, step, begun = loader(options, seed), 0, time.process_time()
    while step < options.steps:
        for batch in data:
            for group in optimiser.param_groups:
                group["lr"] = options.lr * shape(step, options.steps)
            both = torch.cat(batch)
            z = parts["head"](tower(both)).chunk(2)
            if name == "simclr":
                loss = ntxent(*z)
            else:
                with torch.no_grad():
                    target = slow["head"](slow["tower"](both)).chunk(2)
                if dino is not None:
                    loss = dino(list(target), list(z), epoch=0)
                else:
                    p = [parts["predictor"](part) for part in z]
                    loss = 0.5 * (cosine(p[0], target[1]) + cosine(p[1], target[0]))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(wanted, 3.0)
            optimiser.step()
            if name != "simclr":
                decay = 1.0 - (1.0 - DECAY) * (1 + math.cos(math.pi * step / options.steps)) / 2
                update_momentum(tower, slow["tower"], decay)
                update_momentum(parts["head"], slow["head"], decay)
            step += 1
            if marks is not None:
                marks.append(time.perf_counter())
            if step == options.steps:
                break
    return model.eval(), time.process_time() - begun


def shape(step: int, total: int) -> float:
    """Linear warm-up over a tenth of the steps, then half a cosine."""
    warm = max(1, total // 10)
    return (step + 1) / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))) / 2
