"""Image-text matching: an encoder that reads a caption and the patches of an image says whether they match."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Count, Positive
from embedkit.errors import RecipeError
from embedkit.methods.base import methods
from embedkit.methods.patches.captions import CaptionTerm
from embedkit.methods.patches.term import check_heads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("image-text-matching")
class ImageTextMatching(CaptionTerm):
    """Image-text matching with hard negatives (ALBEF, Li et al. 2021, NeurIPS, section 3.2), beside a method on pairs.

    A fusion encoder stands on both towers and is dropped at use. Each image has three pairs: with its caption, with a
    wrong caption, and its caption with a wrong image. Wrong partners are drawn in proportion to exp(cosine /
    ``temperature``) of the step's vectors; equal texts, equal images and one row's are no wrong partners. The drawing
    is a function of the whole batch's vectors and of seed and step, so all processes and chunks know the same partners.
    Patches are never sent: the ids of captions are, and a pair is read where its image is. The loss is the mean
    cross-entropy over all pairs.

    With ``soft_masks`` each image comes once more with its caption: what a drawn word of the caption looks at
    (Grad-CAM of the match) is weakened, v (1 - m), and the pair still matches (Park and Han 2023, CVPR, section 3.2).

    Parameters
    ----------
    layers, width, heads : int
        Of the fusion encoder.
    temperature : float
        Of the drawing.
    soft_masks : bool
        Whether masked images are matched too.
    view, image : str
        See `CaptionTerm`; of several texts of an image the first.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["image-text-matching"](soft_masks=True).term
    'matching'
    """

    paper: ClassVar[str] = "Li et al. 2021, NeurIPS, Align before Fuse, section 3.2"
    term: ClassVar[str] = "matching"

    def __init__(
        self, layers: Count = 6, width: Count = 512, heads: Count = 8, temperature: Positive = 0.07,
        soft_masks: bool = False, view: str = "positive", image: str = "anchor",
    ) -> None:  # fmt: skip
        super().__init__(view, image)
        if soft_masks and layers < 2:
            raise RecipeError("no word reaches the answer of one layer", where="method.layers",
                              remedy="set layers: 2 or more, or leave soft_masks out")  # fmt: skip
        check_heads(width, heads)
        self.layers, self.width, self.heads = layers, width, heads
        self.temperature, self.soft_masks = temperature, soft_masks

    @property
    def shared_texts(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({self.view})

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit.models.heads.cross_attention import TokenPool, token_width
        from embedkit.models.heads.fusion import FusionEncoder

        towers: Any = model
        fusion = FusionEncoder(token_width(towers.text), self.width, self.layers, self.heads)
        return nn.ModuleDict({"memory": TokenPool(towers.image.token_width, self.width), "fusion": fusion})

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        return parts["memory"](patches.tokens).flatten(1)  # type: ignore[no-any-return]

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """Nothing yet: the wrong partners of all pairs, and the words that masks are made for."""
        import torch

        from embedkit.objectives.compose.drawn_negatives import drawn_negatives

        rows = batch.owner[self.image]
        text = torch.searchsorted(
            batch.owner[f"main/{self.view}"].contiguous(), rows.contiguous()
        )  # the first of each image's
        keys = [rows, batch.keys[f"main/{self.image}"], batch.keys[f"main/{self.view}"][text]]
        images, texts = outputs[f"main/{self.image}"], outputs[f"main/{self.view}"][text]
        generator = batch.generator("image-text-matching")
        wrong_text = drawn_negatives(images, texts, keys, self.temperature, generator)
        wrong_image = drawn_negatives(texts, images, keys, self.temperature, generator)
        words = torch.rand(len(rows), generator=generator, dtype=torch.float64).to(rows.device)
        batch.choices.update(text=text, wrong_text=wrong_text, wrong_image=wrong_image, words=words)
        return {}

    def local_terms(
        self, name: str, embeddings: Tensor, inputs: Any, batch: ObjectiveBatch, model: Any, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.models.heads.cross_attention import token_vectors
        from embedkit.models.heads.fusion import match_loss

        if name != self.image or batch.chunk is None:
            return {}
        chunk, choice = batch.chunk, batch.choices
        memory = batch.own[name][self.own_place(chunk, batch)].unflatten(1, (-1, self.width)).to(model.dtype)
        here = torch.arange(len(chunk), device=chunk.device)
        place = torch.full_like(choice["text"], -1).index_copy(0, chunk, here)  # of an image in this chunk
        has_text, partner = choice["wrong_text"][chunk] >= 0, choice["wrong_image"]
        is_here = (partner >= 0) & (place[partner.clamp(min=0)] >= 0)  # captions with a wrong image of this chunk
        others = is_here.nonzero()[:, 0]
        image = torch.cat([here, here[has_text], place[partner[others]]])
        pair = torch.cat([chunk, choice["wrong_text"][chunk][has_text], others])
        texts, back = choice["text"][pair].unique(return_inverse=True)
        read = batch.texts[self.view].select(texts.cpu().numpy())
        states, real = token_vectors(model.text, read)
        label = torch.zeros_like(image).index_fill(0, here, 1)
        logits = parts["fusion"](states[back], real[back], memory[image])
        count = len(partner) + int((partner >= 0).sum()) + int((choice["wrong_text"] >= 0).sum())
        losses = {self.term: match_loss(logits, label) / count}
        if self.soft_masks:
            own = back[here]
            loss = self._masked(parts, states[own], real[own], memory, choice["words"][chunk])
            losses["masked"] = loss / len(partner)
        return losses

    def _masked(self, parts: nn.ModuleDict, states: Tensor, real: Tensor, memory: Tensor, draws: Tensor) -> Tensor:
        """The losses of pairs whose images are weakened where a word of the caption looks at, summed."""
        import torch

        from embedkit.models.heads.fusion import match_loss, soft_masks

        inner = (real.sum(dim=1) - 2).clamp(min=1)  # words stand between the first and the last token
        words = (1 + (draws * inner).long()).clamp(max=real.shape[1] - 1)
        fusion: Any = parts["fusion"]
        masks = soft_masks(fusion, states, real, memory, words).to(memory.dtype)
        return match_loss(fusion(states, real, memory * (1 - masks[:, :, None])), torch.ones_like(words))
